"""Checks of the tables themselves, per partition where the table is partitioned."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import IndexSettings, Settings
from gradsim_assets.core.candidates.candidate_choice import by_index, held_by_bm25
from gradsim_assets.core.candidates.chosen_candidates import chosen_candidates
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import shard_keys, shard_slice
from gradsim_assets.core.samples import present
from gradsim_assets.core.tables import analysis_soundness, soundness
from gradsim_assets.core.tables.audit import read_audited
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    BM25_CANDIDATES,
    CONTROL_COMPARISON,
    CURVATURE,
    DOT_PRODUCTS,
    FIRST_ORDER,
    GRADIENT_INDEX,
    GRADIENT_SIMILARITY,
    GREEDY_SELECTION,
    INDEX_CANDIDATES,
    INDEX_RECALL,
    LIMA,
    LINEAR_DATAMODELING_SCORE,
    MODEL_COMPARISON,
    MODEL_GENERATED,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    REMOVAL,
    RETRIEVAL,
    RETRIEVAL_BY_GROUP,
    SAMPLE_COLUMNS,
    SELF_SIMILARITY,
    SETTINGS,
    SUBSET_LOSSES,
    TABLES,
    TAIL_PATCH,
    TOKEN_ATTRIBUTION,
    TRACIN,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.checks.accuracy_drift import drift
from gradsim_assets.defs.checks.analysis_rules import Rules, analysis_rules, comparison_rules
from gradsim_assets.defs.checks.no_flags import flags
from gradsim_assets.defs.checks.no_zero_scores import zero_scores
from gradsim_assets.defs.checks.results import check_result, checked_partition
from gradsim_assets.defs.gradients.pass_tables import configured
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.partitions import MODELS, Partitions, dimension_of
from gradsim_assets.resources.table_store import TableStore

#: The check that every table has, blocking: downstream of a wrong table nothing is computed in the same run.
SOUND = "sound"


@dataclass(frozen=True)
class _Group:
    """Tables that one step writes, so that one step checks them (each step is a pod on Kubernetes)."""

    name: str
    paths: tuple[tuple[str, ...], ...]
    partitions_def: dg.PartitionsDefinition | None
    rules: Rules


def build_tables(settings: Settings, partitions: Partitions) -> list[dg.AssetChecksDefinition]:
    """The checks of the tables for one configuration."""
    groups = _groups(settings, partitions)
    return [
        *map(_checks, groups),
        flags(partitions),
        zero_scores(partitions, held_by_bm25(settings.data.candidates)),
        drift(),
    ]


def findings_of(
    settings: Settings, partitions: Partitions, store: TableStore, key: Sequence[str], partition: Partition
) -> soundness.Findings:
    """What the check of a table finds in one of its partitions, without a run."""
    group = next(group for group in _groups(settings, partitions) if tuple(key) in group.paths)
    return _findings(group.rules, store, key, partition)[0]


def _groups(settings: Settings, partitions: Partitions) -> list[_Group]:
    methods = settings.preconditioners.methods
    gradient_paths = _paths(configured(settings, (DOT_PRODUCTS, PROJECTED_SIMILARITY, PRECONDITIONED_PRODUCTS)))
    all_pairs = configured(settings, (ALL_PAIRS, ALL_PAIRS_PROJECTED, ALL_PAIRS_PRECONDITIONED))
    shards = tuple(partitions.shards.get_partition_keys())
    return [
        _Group("originals_sound", ((LIMA.name,),), None, _original_rules),
        _Group("sample_columns_sound", ((SAMPLE_COLUMNS.name,),), None, _column_rules),
        _Group("paraphrases_sound", ((PARAPHRASED.name,),), partitions.shards, _paraphrase_rules),
        _Group("candidates_sound", ((BM25_CANDIDATES.name,),), partitions.shards, _candidate_rules),
        _Group("answers_sound", ((MODEL_GENERATED.name,),), partitions.model_shards, _answer_rules),
        *(
            [_Group("curvature_sound", tuple((CURVATURE.name, kind) for kind in methods), MODELS, _curvature_rules)]
            if methods
            else []
        ),
        _Group("gradients_sound", gradient_paths, partitions.model_shards, _gradient_rules),
        _Group(
            "similarities_sound",
            _paths([GRADIENT_SIMILARITY]),
            MODELS,
            _similarity_rules(shards),
        ),
        *(
            _Group(
                f"{table.name}_sound",
                _paths([table]),
                MODELS,
                _evaluation_rules(shards),
            )
            for table in (FIRST_ORDER, TAIL_PATCH, TOKEN_ATTRIBUTION)
        ),
        _Group("subset_losses_sound", ((SUBSET_LOSSES.name,),), partitions.model_subsets, _subset_rules(shards)),
        *(
            [
                _Group("index_sound", ((GRADIENT_INDEX.name,),), partitions.model_slices, _index_rules(settings.index)),
                _Group("index_recall_sound", ((INDEX_RECALL.name,),), MODELS, _recall_rules),
            ]
            if settings.index
            else []
        ),
        *(
            [
                _Group(
                    "index_candidates_sound",
                    _paths([INDEX_CANDIDATES]),
                    partitions.model_shards,
                    _index_candidate_rules(settings.index.slices),
                )
            ]
            if settings.index and settings.indexed
            else []
        ),
        _Group("all_pairs_sound", _paths(all_pairs), MODELS, _all_pairs_rules(shards)),
        _Group(
            "counterfactuals_sound",
            _paths([LINEAR_DATAMODELING_SCORE, REMOVAL]),
            MODELS,
            _counterfactual_rules(shards),
        ),
        # A step checks what lies side by side: what is made from another table of the group would wait for its own check.
        *(
            _Group(name, paths, MODELS, analysis_rules(shards))
            for name, paths in _of_analyses(settings).items()
            if paths
        ),
        _Group("comparison_sound", ((MODEL_COMPARISON.name,),), None, comparison_rules),
    ]


def _paths(tables: Iterable[TableSchema]) -> tuple[tuple[str, str], ...]:
    """The paths of tables that exist for both settings."""
    return tuple((table.name, setting) for table in tables for setting in SETTINGS)


def _of_analyses(settings: Settings) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The paths of the tables of a model's analyses, by the step that checks them."""
    tables = (
        *(ACCURACY_PER_COMPONENT, AGREEMENT, GREEDY_SELECTION, SELF_SIMILARITY),
        *(RETRIEVAL, RETRIEVAL_BY_GROUP, CONTROL_COMPARISON),
    )
    summed = tuple((TRACIN.name, setting) for setting in TRACIN.parts) if settings.trajectories else ()
    return {
        "sizes_sound": ((PARAMETERS_PER_COMPONENT.name,),),
        "sums_over_checkpoints_sound": summed,
        "analyses_sound": _paths(tables),
    }


def _checks(group: _Group) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            SOUND,
            asset=asset_key(*path),
            blocking=True,
            partitions_def=group.partitions_def,
            description="The file is whole and ours; schema, rows, duplicates and numbers are what they must be.",
        )
        for path in group.paths
    ]

    @dg.multi_asset_check(name=group.name, specs=specs, can_subset=True)
    @fails_in_one_sentence
    def check_tables(context: dg.AssetCheckExecutionContext, store: TableStore) -> Iterator[dg.AssetCheckResult]:
        partition = checked_partition(context, dimension_of(group.partitions_def))
        for check_key in sorted(context.selected_asset_check_keys):
            found, rows = _findings(group.rules, store, table_path(check_key.asset_key), partition)
            yield check_result(found, check_key.asset_key, partition, SOUND, {"rows": rows})

    return check_tables


def _findings(
    rules: Rules, store: TableStore, key: Sequence[str], partition: Partition
) -> tuple[soundness.Findings, int]:
    frame, found = read_audited(store.tables, key, partition)
    if frame is None:
        return found, 0
    schema = TABLES[key[0]]
    found += soundness.schema_findings(schema, frame)
    if found:  # what follows takes the columns for granted
        return found, frame.height
    found += soundness.duplicate_findings(schema, frame) + soundness.finite_findings(frame)
    try:
        found += rules(store, key, partition, frame)
    except InputError as error:  # an input of the table is missing or damaged
        found.append(str(error))
    return found, frame.height


def _original_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    return ([] if frame.height else ["there is no original"]) + soundness.conversation_findings(frame)


def _column_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    """Every original has its row, once and in the order of the originals."""
    originals = store.tables.read([LIMA.name])["id"].to_list()
    found = soundness.sample_findings(frame, originals, "the originals")
    return found if found or frame["id"].to_list() == originals else ["the rows are not in the order of the originals"]


def _paraphrase_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    originals = set(store.tables.read([LIMA.name])["id"].to_list())
    orphans = sorted(set(frame["id"].to_list()) - originals)
    found = [f"{len(orphans)} paraphrases have no original, such as {orphans[0]}"] if orphans else []
    return found + soundness.unexplained_findings(frame)


def _candidate_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    variants = present(store.tables.read([PARAPHRASED.name], Partition(shard=partition.shard)))
    compared = frame.select(id=pl.col("variant_id")).unique()
    found = soundness.sample_findings(compared, variants["id"].to_list(), "the paraphrases")
    own = frame.filter(pl.col("variant_id") == pl.col("original_id"))["variant_id"].n_unique()
    if own != compared.height:
        found.append(f"{compared.height - own} variants do not have their own original among their candidates")
    return found


def _answer_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    variants = present(store.tables.read([PARAPHRASED.name], Partition(shard=partition.shard)))
    dropped = int(store.tables.provenance(key, partition).get("dropped") or 0)
    return soundness.sample_findings(frame, variants["id"].to_list(), "the paraphrases", dropped)


def _gradient_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    provenance = store.tables.provenance(key, partition)
    if provenance.get("imported"):  # candidates of an import are the import's own
        expected = frame
    else:
        expected = chosen_candidates(
            store.tables, str(partition.model), key[1], [str(partition.shard)], provenance.get("candidates")
        )
    return _pass_findings(store, partition, frame, expected, provenance)


def _pass_findings(
    store: TableStore,
    partition: Partition,
    frame: pl.DataFrame,
    expected: pl.DataFrame,
    provenance: Mapping[str, Any],
) -> soundness.Findings:
    """What is wrong with a table of a pass that should hold the expected pairs."""
    dropped = int(provenance.get("dropped") or 0) > 0
    if "proportion" in frame.columns:
        expected = expected if provenance.get("proportions") != [] else expected.clear()  # none was asked for
        found = soundness.pair_findings(frame, expected, "proportion", dropped)
        return found + soundness.cosine_findings(frame)
    by_preconditioner = _by_preconditioner(frame)
    made = {entry.removeprefix("curvature/") for entry in provenance if entry.startswith("curvature/")}
    lacking = sorted(made - {name for name, _ in by_preconditioner}) if len(frame) else []
    found = [f"all products under {name} are missing" for name in lacking]
    for _, products in by_preconditioner:
        found += soundness.pair_findings(products, expected, "component", dropped)
        found += soundness.product_findings(products)
        if products.height or (expected.height and not dropped):  # where all are missing or left out there are no pairs
            found += soundness.component_findings(products, _components(store, partition, provenance))
        found += soundness.agreement_findings({str(partition): products})
    return found


def _by_preconditioner(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """The products of a table by what gradients were multiplied with; plain ones under an empty name."""
    if "preconditioner" not in frame.columns:
        return [("", frame)]
    parts = frame.partition_by("preconditioner", as_dict=True, include_key=False)
    return [(str(name), products) for (name,), products in parts.items()] or [("", frame.drop("preconditioner"))]


def _curvature_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    provenance = store.tables.provenance(key, partition)
    found = soundness.component_findings(frame, _components(store, partition, provenance))
    negative = frame.filter(pl.col("mean_eigenvalue") < 0)["component"].to_list()
    if negative:
        found.append(f"{len(negative)} components have negative mean eigenvalues, such as {negative[0]}")
    folder = store.tables.path(key, partition).parent
    missing = [name for name in frame["file"].unique(maintain_order=True) if not (folder / name).exists()]
    return found + [f"{folder / name} is missing, which holds its numbers" for name in missing]


def _components(store: TableStore, partition: Partition, provenance: Mapping[str, Any]) -> list[str] | None:
    """The components of the model at the revision, and with the settings, that a table was computed from; None where they are
    not known (yet)."""
    sizes, where = [PARAMETERS_PER_COMPONENT.name], Partition(partition.model)
    if not store.tables.exists(sizes, where):
        return None
    known = store.tables.provenance(sizes, where)
    if any(known.get(entry) != provenance.get(entry) for entry in ("revision", "settings")):
        return None
    return store.tables.read(sizes, where)["component"].to_list()


def _shard_rules(store: TableStore, key: Sequence[str], parts: Sequence[Partition]) -> soundness.Findings:
    """Over all shards of a model's products: every variant is in one of them, and all paraphrases are there."""
    by_shard = {
        str(part.shard): store.tables.scan(key, [part]).select("variant_id").unique().collect()["variant_id"].to_list()
        for part in parts
    }
    sources = [store.tables.provenance(key, part) for part in parts]
    expected = None
    if not any(source.get("imported") for source in sources):
        paraphrased = store.tables.scan([PARAPHRASED.name], [Partition(shard=part.shard) for part in parts]).collect()
        expected = present(paraphrased)["id"].to_list()
    return soundness.shard_findings(by_shard, expected, sum(int(source.get("dropped") or 0) for source in sources))


def _evaluation_rules(shards: Sequence[str]) -> Rules:
    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        source, parts = [DOT_PRODUCTS.name, key[1]], [Partition(partition.model, shard) for shard in shards]
        known = store.tables.scan(source, parts).select("variant_id", "original_id").unique().collect()
        if frame.is_empty():
            return ["no variant was evaluated"] if known.height else []
        if "original_id" not in frame.columns:  # random originals are out of all
            known = known.select("variant_id").unique()
        strange = frame.join(known, on=known.columns, how="anti")
        found = [f"{strange.height} rows are not of dot_products, such as {strange.row(0)}"] if strange.height else []
        told = _TOLD.get(key[0])
        return found + (told(frame, store.tables.scan(source, parts)) if told else [])

    return rules


#: What tables say again of the products that they follow from.
_TOLD = {FIRST_ORDER.name: soundness.predicted_findings, TOKEN_ATTRIBUTION.name: soundness.token_findings}


def _subset_rules(shards: Sequence[str]) -> Rules:
    """Every sample has its loss, unless the context policy has dropped it, and half of the originals are in the subset."""

    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        found = []
        for setting in ("original", *SETTINGS):
            here = frame.filter(setting=setting)
            texts = store.tables.read([LIMA.name]) if setting == "original" else None
            known = texts if texts is not None else store.variants(setting, str(partition.model), shards)
            if known is None:
                return [f"not all texts of {setting} are at hand"]
            strange = here.join(present(known), on="id", how="anti")
            if strange.height or (here.is_empty() and present(known).height):
                found.append(f"{setting}: {strange.height} of {here.height} samples are not among the texts")
        originals = frame.filter(setting="original")
        if originals["in_subset"].sum() != originals.height // 2:
            found.append(f"{originals['in_subset'].sum()} of {originals.height} originals are in the subset, not half")
        return found

    return rules


def _index_rules(asked: IndexSettings) -> Rules:
    """Every original of the slice has its sketch, unless the context policy has dropped it."""

    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        provenance = store.tables.provenance(key, partition)
        ids = shard_slice(
            store.tables.read([LIMA.name])["id"].to_list(), str(partition.slice), asked.slices, "index.slices"
        )
        found = soundness.sample_findings(frame, ids, "the slice", int(provenance.get("dropped") or 0))
        return found + soundness.sketch_findings(frame, int(provenance.get("dimension") or asked.dimension))

    return rules


def _index_candidate_rules(slices: int) -> Rules:
    """Every variant has its candidates by rank, its own original among them, as many as there are to choose from."""

    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        provenance = store.tables.provenance(key, partition)
        asked = by_index(provenance.get("candidates"))
        if not asked:  # of a model whose candidates come from elsewhere
            return [f"there are {frame.height} candidates, and none were asked for"] if frame.height else []
        variants = store.variants(key[1], str(partition.model), [str(partition.shard)])
        if variants is None:
            return [f"not all texts of {key[1]} are at hand"]
        parts = [Partition(partition.model, slice=one) for one in shard_keys(slices)]
        known = store.tables.scan([GRADIENT_INDEX.name], parts).select("id").collect()["id"]
        dropped = int(provenance.get("dropped") or 0)
        compared = frame.select(id=pl.col("variant_id")).unique()
        found = soundness.sample_findings(compared, present(variants)["id"].to_list(), "the variants", dropped)
        return found + soundness.nearest_findings(frame, known, asked)

    return rules


def _recall_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    beyond = frame.filter((pl.col("found") < 0) | (pl.col("found") > pl.min_horizontal("k", "reranked")))
    found = [f"{beyond.height} rows find more than there is, such as {beyond.row(0)}"] if beyond.height else []
    return found or (["no query was looked up"] if frame.is_empty() else [])


def _all_pairs_rules(shards: Sequence[str]) -> Rules:
    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        variants = store.variants(key[1], str(partition.model), shards)
        if variants is None:
            return [f"not all texts of {key[1]} are at hand"]
        originals = store.tables.read([LIMA.name]).select(original_id="id")
        expected = present(variants).select(variant_id="id").join(originals, how="cross")
        return _pass_findings(store, partition, frame, expected, store.tables.provenance(key, partition))

    return rules


def _counterfactual_rules(shards: Sequence[str]) -> Rules:
    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        if frame.is_empty() or frame["variants"].min() == 0:
            texts = store.variants(key[1], str(partition.model), shards)
            return [] if texts is not None and present(texts).is_empty() else ["no variant was evaluated"]
        if key[0] != LINEAR_DATAMODELING_SCORE.name:
            originals = store.tables.read([LIMA.name]).height
            found = analysis_soundness.range_findings(REMOVAL, frame)
            too_many = frame.filter((pl.col("removed") < 1) | (pl.col("removed") >= originals))
            return found + (
                [f"{too_many['removed'][0]} of {originals} originals were removed"] if len(too_many) else []
            )
        beyond = frame.filter(pl.any_horizontal(pl.col("lds", "lds_low", "lds_high").abs() > 1))
        return [f"{beyond.height} rows hold no correlations, such as {beyond.row(0)}"] if beyond.height else []

    return rules


def _similarity_rules(shards: Sequence[str]) -> Rules:
    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
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
        found = soundness.cosine_findings(frame) + soundness.agreement_findings(selves)
        pairs = products.select("variant_id", "original_id").unique().collect()
        found += _shard_rules(store, source, parts)
        return found + soundness.pair_findings(frame, pairs, "component")

    return rules
