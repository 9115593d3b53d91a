"""The gradient tables: both settings and the projections out of one pass over the distinct samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import ModelSettings, Settings
from gradsim_assets.core.candidates.bm25_candidates import model_candidates
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.candidates.chosen_candidates import chosen_candidates, of_bm25
from gradsim_assets.core.gradients.numerics_version import NUMERICS
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import (
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    INDEX_CANDIDATES,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    SETTINGS,
    TABLES,
)
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.curvature.factors import preconditioners_of
from gradsim_assets.defs.gradients import pass_tables
from gradsim_assets.defs.index import index_candidates
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import GRADIENTS
from gradsim_assets.orchestration.partitions import BY_MODEL, BY_SHARD, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassResult
    from gradsim_assets.core.gradients.pass_inputs import PassInputs
    from gradsim_assets.core.models.loading import LoadedModel

_VERSION = (
    "Its data version follows from the model's revision, the tokens of the samples, the configuration and the declared version "
    "of the numerics: computed again on another machine it is the same, although the last digits may differ (the `fingerprint` "
    "tells)."
)

_DESCRIPTIONS = {
    DOT_PRODUCTS.name: (
        "Exact products of loss gradients, per pair and component, with the squared norms of both sides. Every cosine "
        "of a component, of a set of components and of the full gradient follows from this table without a GPU."
    ),
    PRECONDITIONED_PRODUCTS.name: (
        "Products <g, P g'> of loss gradients under each preconditioner that is configured, per pair and component, with "
        "those of both sides with themselves: out of the same pass as the plain ones. Cosines follow as from those."
    ),
    PROJECTED_SIMILARITY.name: (
        "Cosine of randomly projected full gradients, one row per pair and size of projection: what one gives up by "
        "storing a sketch of each gradient in place of comparing whole gradients."
    ),
}


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """The gradient tables for one configuration; `op_tags` give their step a pod of its own kind."""
    tables = pass_tables.configured(settings, (TABLES[name] for name in _DESCRIPTIONS))
    specs = [_spec(table.name, setting, settings) for table in tables for setting in SETTINGS]

    @dg.multi_asset(
        name="gradient_pass",  # not that of the job: Dagster wants op and job names distinct
        specs=specs,
        partitions_def=partitions.model_shards,
        can_subset=True,
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
    )
    @fails_in_one_sentence
    def gradients(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> Iterator[dg.MaterializeResult]:
        yield from _gradients(context, hub, store, compute, settings)

    return [gradients]


def _spec(table: str, setting: str, settings: Settings) -> dg.AssetSpec:
    deps = [
        dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL),
        dg.AssetDep(LIMA.name),
        dg.AssetDep(BM25_CANDIDATES.name, partition_mapping=BY_SHARD),
        dg.AssetDep(MODEL_GENERATED.name),  # nothing is read of it for paraphrases: see `waits_only`
        *([dg.AssetDep(PARAPHRASED.name, partition_mapping=BY_SHARD)] if setting == PARAPHRASED.name else []),
        *index_candidates.deps(settings, *SETTINGS),  # of the other one nothing is read: see `waits_only`
        *pass_tables.curvature_deps(settings, BY_MODEL),
    ]
    return dg.AssetSpec(
        asset_key(table, setting),
        deps=deps,
        skippable=True,
        group_name=GRADIENTS,
        kinds={"pytorch", "parquet"},
        description=f"{_DESCRIPTIONS[table]} {_VERSION} Variants: {setting}.",
        metadata=column_schema(TABLES[table]),
        code_version=code_version(
            model_candidates,
            "core.models.loading:load_model",
            "core.gradients.pass_inputs:pass_inputs",
            f"core.gradients.{table}",
            *pass_tables.declared(table),
            config=pass_tables.decides(settings, table),
            without=NUMERICS,  # what the declared versions stand for
        ),
    )


def _gradients(
    context: dg.AssetExecutionContext,
    hub: ModelHub,
    store: TableStore,
    compute: Compute,
    configuration: Settings,
) -> Iterator[dg.MaterializeResult]:
    selected = {key: table_path(key) for key in sorted(context.selected_asset_keys)}
    keys = context.partition_key.keys_by_dimension
    model_id = model_id_of(keys["model"])
    partition = Partition(keys["model"], keys["shard"])
    settings = hub.settings(model_id)
    tables = _read_tables(store, partition, {setting for _, setting in selected.values()}, settings)
    variants = {name: frame for name, frame in tables.items() if name in SETTINGS}
    asked = pass_tables.asked(selected.values(), configuration, compute)
    with progress(context, f"gradients {context.partition_key}", "gradients") as report:
        revision = revision_for_run(context, hub, model_id)
        loaded = loaded_model(context, hub, model_id, revision)
        inputs = _inputs(tables, variants, store, partition, loaded, settings, asked)
        stored, curvature = preconditioners_of(
            inputs.request.preconditioners,
            store,
            compute,
            keys["model"],
            hub.version(model_id, revision),
            configuration.preconditioners,
        )
        scratch = compute.places.scratch("gradients", *keys.values())
        version = code_version("core.models.loading:load_model", "core.gradients.engine:run_pass")
        with compute.run_pass(loaded, inputs.request, scratch, report, context.log.info, version, stored) as result:
            provenance = {
                **provenance_of(hub, model_id, revision),
                **_sources(store, partition, tables, settings),
                **{name: inputs.counts[name] for name in ("dropped", "prompt_no_prefix")},
                "checked_pairs": result.report.checks.pairs,
                **pass_tables.quantised(result),
            }
            made_from = (revision.name, settings.dtype, *filter(None, [settings.choice, loaded.quantised]))
            done = pass_tables.FinishedPass(
                context, store, compute, partition, inputs, result, loaded.device, made_from, curvature
            )
            for key, (table, setting) in selected.items():
                frame = _frame(table, result, setting, inputs.request.pairs[setting])
                yield done.saved(key, frame, {**provenance, **_looked_up(store, partition, setting, settings)})


def _inputs(
    tables: Mapping[str, pl.DataFrame],
    variants: Mapping[str, pl.DataFrame],
    store: TableStore,
    partition: Partition,
    loaded: "LoadedModel",
    settings: ModelSettings,
    asked: pass_tables.Asked,
) -> "PassInputs":
    """The request of the pass: settings share the candidates that BM25 finds, and not those that the index does."""
    rest: dict[str, Any] = {"policy": settings.context, **asked._asdict()}
    if not by_index(settings.candidates):
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs

        return pass_inputs(tables[LIMA.name], variants, tables[BM25_CANDIDATES.name], loaded, **rest)
    from gradsim_assets.core.gradients.pass_inputs_by_setting import pass_inputs_by_setting

    model, shards = str(partition.model), [str(partition.shard)]
    candidates = {
        setting: chosen_candidates(store.tables, model, setting, shards, settings.candidates) for setting in variants
    }
    return pass_inputs_by_setting(tables[LIMA.name], variants, candidates, loaded, **rest)


def _frame(
    table: str, result: "PassResult", setting: str, pairs: Sequence[tuple[str, str]]
) -> pl.DataFrame | pl.LazyFrame:
    """A table out of a pass."""
    from gradsim_assets.core.gradients.dot_products import product_frame
    from gradsim_assets.core.gradients.preconditioned_products import preconditioned_frame
    from gradsim_assets.core.gradients.projected_similarity import projection_frame

    made: dict[str, Callable[..., pl.DataFrame | pl.LazyFrame]] = {
        DOT_PRODUCTS.name: product_frame,
        PROJECTED_SIMILARITY.name: projection_frame,
        PRECONDITIONED_PRODUCTS.name: preconditioned_frame,
    }
    return (
        TABLES[table].empty()
        if pass_tables.holds_nothing(table, result, setting)
        else made[table](result, setting, pairs)
    )


def _sources(
    store: TableStore, partition: Partition, tables: Mapping[str, pl.DataFrame], settings: ModelSettings
) -> dict[str, Any]:
    """What the provenance says of the tables that a shard is made from."""
    candidates = store.tables.provenance([BM25_CANDIDATES.name], Partition(shard=partition.shard))
    return {
        "candidates": settings.candidates,
        "retriever": candidates.get("retriever"),
        "dataset": fingerprint(tables[LIMA.name]),
        **{name: fingerprint(frame) for name, frame in tables.items()},
    }


def _looked_up(store: TableStore, partition: Partition, setting: str, settings: ModelSettings) -> dict[str, Any]:
    """What the provenance says besides where the index gives candidates."""
    if not by_index(settings.candidates):
        return {}
    key, bm25 = [INDEX_CANDIDATES.name, setting], [BM25_CANDIDATES.name]
    found = store.tables.provenance(key, partition)
    by_bm25 = store.tables.provenance(bm25, Partition(shard=partition.shard)).get("retriever")
    return {
        "retriever": f"{by_bm25} index={found.get('dimension')}",
        "index": found.get("index"),
        INDEX_CANDIDATES.name: found.get("fingerprint"),
    }


def _read_tables(
    store: TableStore, partition: Partition, variants: set[str], settings: ModelSettings
) -> dict[str, pl.DataFrame]:
    """The inputs of a shard; `model_generated` only where it is asked for, since it need not exist otherwise."""
    shard = Partition(shard=partition.shard)
    where = {LIMA.name: Partition()}
    where |= {name: shard if name == PARAPHRASED.name else partition for name in sorted(variants)}
    return {
        BM25_CANDIDATES.name: of_bm25(store.tables, [str(partition.shard)], settings.candidates),
        **{name: store.tables.read([name], at) for name, at in where.items()},
    }
