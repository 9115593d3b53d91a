"""The gradient tables: both settings and the projections out of one pass over the distinct samples."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import ComputeSettings, ModelSettings, Settings
from gradsim_assets.core.candidates.bm25_candidates import model_candidates
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import (
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
    PROJECTED_SIMILARITY,
    SETTINGS,
)
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.models.hf_model import HF_MODEL, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import GRADIENTS
from gradsim_assets.orchestration.partitions import BY_MODEL, BY_SHARD, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

#: What makes projections, of which products know nothing.
_PROJECTIONS = ("core.sample_gradients.projections", "core.sample_gradients.projected_gradients")

_DESCRIPTIONS = {
    DOT_PRODUCTS.name: (
        "Exact products of loss gradients, per pair and component, with the squared norms of both sides. Every cosine "
        "of a component, of a set of components and of the full gradient follows from this table without a GPU."
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
    specs = [_spec(table, setting, settings) for table in _DESCRIPTIONS for setting in SETTINGS]

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
        yield from _gradients(context, hub, store, compute)

    return [gradients]


def _spec(table: str, setting: str, settings: Settings) -> dg.AssetSpec:
    deps = [
        dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL),
        dg.AssetDep(LIMA.name),
        dg.AssetDep(BM25_CANDIDATES.name, partition_mapping=BY_SHARD),
        dg.AssetDep(MODEL_GENERATED.name),  # nothing is read of it for paraphrases: see `waits_only`
        *([dg.AssetDep(PARAPHRASED.name, partition_mapping=BY_SHARD)] if setting == PARAPHRASED.name else []),
    ]
    projected = table == PROJECTED_SIMILARITY.name
    return dg.AssetSpec(
        asset_key(table, setting),
        deps=deps,
        skippable=True,
        group_name=GRADIENTS,
        kinds={"pytorch", "parquet"},
        description=f"{_DESCRIPTIONS[table]} Variants: {setting}.",
        metadata=column_schema(PROJECTED_SIMILARITY if projected else DOT_PRODUCTS),
        code_version=code_version(
            model_candidates,
            "core.models.loading:load_model",
            "core.gradients.pass_inputs:pass_inputs",
            "core.gradients.engine:run_pass",
            f"core.gradients.{table}",
            config=_decides(settings.compute, projected),
            # One pass makes both tables; the products are the same with and without projections.
            without=() if projected else _PROJECTIONS,
        ),
    )


def _decides(compute: ComputeSettings, projected: bool) -> str:
    """What of the configuration the values depend on."""
    chosen = {"precision"} | ({"projections", "projection", "projection_weighting"} if projected else set())
    return compute.model_dump_json(include=chosen)


def _gradients(
    context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    from gradsim_assets.core.gradients.dot_products import product_frame
    from gradsim_assets.core.gradients.pass_inputs import pass_inputs
    from gradsim_assets.core.gradients.projected_similarity import projection_frame

    selected = {key: table_path(key) for key in sorted(context.selected_asset_keys)}
    keys = context.partition_key.keys_by_dimension
    model_id = model_id_of(keys["model"])
    partition = Partition(keys["model"], keys["shard"])
    settings = hub.settings(model_id)
    tables = _read_tables(store, partition, {setting for _, setting in selected.values()}, settings)
    variants = {name: frame for name, frame in tables.items() if name in SETTINGS}
    with progress(context, f"gradients {context.partition_key}", "gradients") as report:
        revision = revision_for_run(context, hub, model_id)
        loaded = hub.load(model_id, revision, context.log.info)
        inputs = pass_inputs(
            tables[LIMA.name],
            variants,
            tables[BM25_CANDIDATES.name],
            loaded,
            policy=settings.context,
            products=[setting for table, setting in selected.values() if table == DOT_PRODUCTS.name],
            projections={
                setting: compute.projections for table, setting in selected.values() if table != DOT_PRODUCTS.name
            },
        )
        scratch = compute.places.scratch("gradients", *keys.values())
        version = code_version("core.models.loading:load_model", "core.gradients.engine:run_pass")
        with compute.run_pass(loaded, inputs.request, scratch, report, context.log.info, version) as result:
            provenance = {
                **provenance_of(hub, model_id, revision),
                "candidates": settings.candidates,
                "retriever": store.tables.provenance([BM25_CANDIDATES.name], Partition(shard=keys["shard"])).get(
                    "retriever"
                ),
                **{name: inputs.counts[name] for name in ("dropped", "prompt_no_prefix")},
                "dataset": fingerprint(tables[LIMA.name]),
                **{name: fingerprint(frame) for name, frame in tables.items()},
            }
            metadata = {**inputs.counts, **compute.metadata(result)}
            tags = revision_tags(context)
            for key, (table, setting) in selected.items():
                frame_of = product_frame if table == DOT_PRODUCTS.name else projection_frame
                frame = frame_of(result, setting, inputs.request.pairs[setting])
                yield saved_table_result(
                    context, store, key, frame, partition, metadata=metadata, provenance=provenance, tags=tags
                )


def _read_tables(
    store: TableStore, partition: Partition, variants: set[str], settings: ModelSettings
) -> dict[str, pl.DataFrame]:
    """The inputs of a shard; `model_generated` only where it is asked for, since it need not exist otherwise."""
    shard = Partition(shard=partition.shard)
    where = {LIMA.name: Partition()}
    where |= {name: shard if name == PARAPHRASED.name else partition for name in sorted(variants)}
    return {
        BM25_CANDIDATES.name: model_candidates(store.tables, [str(partition.shard)], settings.candidates),
        **{name: store.tables.read([name], at) for name, at in where.items()},
    }
