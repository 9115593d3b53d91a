"""Checks of the tables themselves, per partition where the table is partitioned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core import checks
from gradsim_assets.core.errors import InputError
from gradsim_assets.defs.candidates.assets import model_candidates
from gradsim_assets.defs.common import input_errors
from gradsim_assets.io.audit import read_audited
from gradsim_assets.io.parquet import TableStore, dimension_of, partition_of
from gradsim_assets.io.tables import Partition
from gradsim_assets.partitions import MODELS, Partitions
from gradsim_assets.schemas import (
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    GRADIENT_SIMILARITY,
    LIMA,
    MODEL_GENERATED,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    PROJECTED_SIMILARITY,
    RETRIEVAL,
    SETTINGS,
    TABLES,
)

#: The check that every table has, blocking: downstream of a wrong table nothing is computed in the same run.
SOUND = "sound"
DRIFT = "accuracy_drift"
FLAGS = "no_flags"

Rules = Callable[[TableStore, Sequence[str], Partition, pl.DataFrame], checks.Findings]


@dataclass(frozen=True)
class _Group:
    """Tables that one step writes, so that one step checks them (each step is a pod on Kubernetes)."""

    name: str
    keys: tuple[tuple[str, ...], ...]
    partitions_def: dg.PartitionsDefinition | None
    rules: Rules


def build_tables(partitions: Partitions) -> list[dg.AssetChecksDefinition]:
    """The checks of the tables for one configuration."""
    gradient_keys = tuple((t.name, s) for t in (DOT_PRODUCTS, PROJECTED_SIMILARITY) for s in SETTINGS)
    shards = tuple(partitions.shards.get_partition_keys())
    groups = [
        _Group("originals_sound", ((LIMA.name,),), None, _no_rules),
        _Group("paraphrases_sound", ((PARAPHRASED.name,),), partitions.shards, _paraphrase_rules),
        _Group("candidates_sound", ((BM25_CANDIDATES.name,),), partitions.shards, _candidate_rules),
        _Group("answers_sound", ((MODEL_GENERATED.name,),), partitions.model_shards, _answer_rules),
        _Group("gradients_sound", gradient_keys, partitions.model_shards, _gradient_rules),
        _Group(
            "similarities_sound",
            tuple((GRADIENT_SIMILARITY.name, setting) for setting in SETTINGS),
            MODELS,
            _similarity_rules(shards),
        ),
    ]
    return [*map(_checks, groups), _flags(partitions), _drift()]


def _checks(group: _Group) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            SOUND,
            asset=dg.AssetKey(list(key)),
            blocking=True,
            partitions_def=group.partitions_def,
            description="The file is whole and ours; schema, rows, duplicates and numbers are what they must be.",
        )
        for key in group.keys
    ]

    @dg.multi_asset_check(name=group.name, specs=specs, can_subset=True)
    def check_tables(context: dg.AssetCheckExecutionContext, store: TableStore) -> Iterator[dg.AssetCheckResult]:
        partition = _partition(context, dimension_of(group.partitions_def))
        for check_key in sorted(context.selected_asset_check_keys):
            key = check_key.asset_key.path
            found, rows = _findings(group.rules, store, key, partition)
            yield _result(found, key, partition, SOUND, {"rows": rows})

    return check_tables


def _partition(context: dg.AssetCheckExecutionContext, dimension: str | None) -> Partition:
    if dimension is None:
        return Partition()
    return partition_of(context.op_execution_context.partition_key, dimension)


def _findings(rules: Rules, store: TableStore, key: Sequence[str], partition: Partition) -> tuple[checks.Findings, int]:
    frame, found = read_audited(store.tables, key, partition)
    if frame is None:
        return found, 0
    schema = TABLES[key[0]]
    found += checks.schema_findings(schema, frame)
    if found:  # what follows takes the columns for granted
        return found, frame.height
    found += checks.duplicate_findings(schema, frame) + checks.finite_findings(frame)
    try:
        found += rules(store, key, partition, frame)
    except InputError as error:  # an input of the table is missing or damaged
        found.append(str(error))
    return found, frame.height


def _result(
    found: checks.Findings,
    key: Sequence[str],
    partition: Partition,
    name: str,
    metadata: Mapping[str, Any],
    **more: Any,
) -> dg.AssetCheckResult:
    where = f"{'/'.join(key)} {partition}"
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(list(key)),
        check_name=name,
        passed=not found,
        description="; ".join([f"{where}: {found[0]}", *found[1:]]) if found else f"{where} is sound",
        metadata={**metadata, "findings": dg.MetadataValue.md("\n".join(f"- {f}" for f in found) or "none")},
        **more,
    )


def _no_rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> checks.Findings:
    return []


def _paraphrase_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> checks.Findings:
    originals = set(store.tables.read([LIMA.name])["id"].to_list())
    orphans = sorted(set(frame["id"].to_list()) - originals)
    return [f"{len(orphans)} paraphrases have no original, such as {orphans[0]}"] if orphans else []


def _candidate_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> checks.Findings:
    variants = store.tables.read([PARAPHRASED.name], Partition(shard=partition.shard))
    compared = frame.select(id=pl.col("variant_id")).unique()
    found = checks.sample_findings(compared, variants["id"].to_list(), "the paraphrases")
    own = frame.filter(pl.col("variant_id") == pl.col("original_id"))["variant_id"].n_unique()
    if own != compared.height:
        found.append(f"{compared.height - own} variants do not have their own original among their candidates")
    return found


def _answer_rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> checks.Findings:
    variants = store.tables.read([PARAPHRASED.name], Partition(shard=partition.shard))
    dropped = int(store.tables.provenance(key, partition).get("dropped") or 0)
    return checks.sample_findings(frame, variants["id"].to_list(), "the paraphrases", dropped)


def _gradient_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> checks.Findings:
    provenance = store.tables.provenance(key, partition)
    if provenance.get("imported"):  # candidates of an import are the import's own
        expected = frame
    else:
        expected = model_candidates(store.tables, [str(partition.shard)], provenance.get("candidates"))
    dropped = int(provenance.get("dropped") or 0) > 0
    if key[0] == PROJECTED_SIMILARITY.name:
        found = checks.pair_findings(frame, expected, "proportion", dropped)
        return found + checks.cosine_findings(frame)
    found = checks.pair_findings(frame, expected, "component", dropped) + checks.product_findings(frame)
    found += checks.component_findings(frame, _components(store, partition, provenance))
    return found + checks.agreement_findings({str(partition): frame})


def _components(store: TableStore, partition: Partition, provenance: Mapping[str, Any]) -> list[str] | None:
    """The components of the model at the revision that a table was computed from; None where they are not known (yet)."""
    sizes, where = [PARAMETERS_PER_COMPONENT.name], Partition(partition.model)
    if not store.tables.exists(sizes, where):
        return None
    if store.tables.provenance(sizes, where).get("revision") != provenance.get("revision"):
        return None
    return store.tables.read(sizes, where)["component"].to_list()


def _similarity_rules(shards: Sequence[str]) -> Rules:
    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> checks.Findings:
        source = [DOT_PRODUCTS.name, key[1]]
        parts = [Partition(partition.model, shard) for shard in shards]
        products = store.tables.scan(source, parts)  # names the shards that are missing
        selves = {
            str(part.shard): store.tables.scan(source, [part])
            .select("original_id", "component", "original_self")
            .unique()
            .collect()
            for part in parts
        }
        found = checks.cosine_findings(frame) + checks.agreement_findings(selves)
        pairs = products.select("variant_id", "original_id").unique().collect()
        return found + checks.pair_findings(frame, pairs, "component")

    return rules


def _flags(partitions: Partitions) -> dg.AssetChecksDefinition:
    spec = dg.AssetCheckSpec(
        FLAGS,
        asset=PARAPHRASED.name,
        partitions_def=partitions.shards,
        description="No paraphrase is doubtful: refused, cut, identical, in another language, answered in place of rewritten.",
    )

    @dg.multi_asset_check(name="paraphrases_unflagged", specs=[spec], can_subset=True)
    def check_flags(context: dg.AssetCheckExecutionContext, store: TableStore) -> Iterator[dg.AssetCheckResult]:
        partition = _partition(context, "shard")
        with input_errors():
            frame = store.tables.read([PARAPHRASED.name], partition)
        found = checks.flag_findings(frame)
        yield _result(found, [PARAPHRASED.name], partition, FLAGS, {}, severity=dg.AssetCheckSeverity.WARN)

    return check_flags


def _drift() -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            DRIFT,
            asset=dg.AssetKey([RETRIEVAL.name, setting]),
            partitions_def=MODELS,
            description="Retrieval accuracy has not moved by more than 0.1 since the previous revision of the model.",
        )
        for setting in SETTINGS
    ]

    @dg.multi_asset_check(name="retrieval_drift", specs=specs, can_subset=True)
    def check_drift(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        partition = _partition(context, "model")
        for check_key in sorted(context.selected_asset_check_keys):
            current, previous = _accuracies(context.instance, check_key.asset_key, str(partition.model))
            found = checks.drift(current, previous)
            yield _result(found, check_key.asset_key.path, partition, DRIFT, {}, severity=dg.AssetCheckSeverity.WARN)

    return check_drift


def _accuracies(instance: dg.DagsterInstance, key: dg.AssetKey, slug: str) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracies by method of the latest materialisation, and of the latest one of another revision."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[slug]), limit=50
    ).records
    tables = [record.asset_materialization.metadata for record in records if record.asset_materialization]
    if not tables:
        return {}, {}
    revision = _text(tables[0], "gradsim/revision")
    older = next((table for table in tables if _text(table, "gradsim/revision") != revision), {})
    return _methods(tables[0]), _methods(older)


def _text(metadata: Mapping[str, Any], name: str) -> Any:
    return getattr(metadata.get(name), "value", None)


def _methods(metadata: Mapping[str, Any]) -> dict[str, float]:
    prefix = "accuracy/"
    return {
        name.removeprefix(prefix): float(value.value) for name, value in metadata.items() if name.startswith(prefix)
    }
