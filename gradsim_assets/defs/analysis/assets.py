"""The analyses of a model and their comparison across models, all from tables; no GPU."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.comparison import model_comparison
from gradsim_assets.core.components import parameters_per_component
from gradsim_assets.core.pairs import PairProducts
from gradsim_assets.core.retrieval import accuracy_per_component, order_as_bm25, retrieval
from gradsim_assets.core.selection import agreement, greedy_selection
from gradsim_assets.core.self_similarity import self_similarity
from gradsim_assets.defs.analysis.plots import plots_of
from gradsim_assets.defs.common import (
    RETRIES,
    carried,
    code_version,
    column_schema,
    input_errors,
    plot_metadata,
    table_result,
)
from gradsim_assets.defs.models.assets import HF_MODEL, provenance_of, revision_for_run, revision_tags
from gradsim_assets.io.parquet import TableStore
from gradsim_assets.io.tables import Partition, fingerprint
from gradsim_assets.partitions import ALL, BY_MODEL, MODELS, Partitions, model_id_of, model_slug
from gradsim_assets.resources.hub import ModelHub
from gradsim_assets.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    GREEDY_SELECTION,
    MODEL_COMPARISON,
    PARAMETERS_PER_COMPONENT,
    PROJECTED_SIMILARITY,
    RETRIEVAL,
    SELF_SIMILARITY,
    SETTINGS,
    TableSchema,
)

GROUP = "analysis"
KINDS = {"polars", "parquet"}


@dataclass(frozen=True)
class Analysis:
    """An analysis of one setting that needs the dot products and the parameter counts alone."""

    schema: TableSchema
    compute: Callable[[PairProducts, pl.DataFrame], pl.DataFrame]
    modules: tuple[str, ...]
    description: str


ANALYSES = (
    Analysis(
        ACCURACY_PER_COMPONENT,
        accuracy_per_component,
        ("core/retrieval.py",),
        "How often a single component finds the right original. Read it against chance (1 / number of candidates) and "
        "against the full gradient in `retrieval`: a component above the full gradient knows more than the whole.",
    ),
    Analysis(
        AGREEMENT,
        agreement,
        ("core/selection.py",),
        "How well a single component's similarities stand in for those of the full gradient: 1 means that its "
        "similarities are those of the full gradient up to a factor.",
    ),
    Analysis(
        GREEDY_SELECTION,
        greedy_selection,
        ("core/selection.py",),
        "Components added one by one, each round the one that helps most. Read where the curve flattens against the "
        "cumulated share of parameters; `held_out` is selected on one half of the ids and scored on the other.",
    ),
    Analysis(
        SELF_SIMILARITY,
        self_similarity,
        ("core/self_similarity.py", "core/retrieval.py"),
        "Similarity of each variant to its own original over depth, the samples first where the best component and the "
        "full gradient diverge most: there the full gradient hides what one component sees.",
    ),
)


def build(partitions: Partitions, op_tags: Mapping[str, Any] | None = None) -> list[dg.AssetsDefinition]:
    """All analyses; `op_tags` are for the one that asks torch for a model's shapes."""
    by_setting = [_analysis(analysis, setting) for setting in SETTINGS for analysis in ANALYSES]
    return [
        _parameters_per_component(op_tags),
        *by_setting,
        *(_retrieval(setting, partitions) for setting in SETTINGS),
        _model_comparison(),
    ]


def _parameters_per_component(op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    @dg.asset(
        name=PARAMETERS_PER_COMPONENT.name,
        group_name=GROUP,
        partitions_def=MODELS,
        deps=[HF_MODEL],
        kinds=KINDS,
        metadata=column_schema(PARAMETERS_PER_COMPONENT),
        op_tags=op_tags,
        retry_policy=RETRIES,  # it asks the hub
        code_version=code_version("core/components.py"),
        description="How the model's parameters are spread over its components; read off its shapes, without weights.",
    )
    def parameters_per_component_(
        context: dg.AssetExecutionContext, hub: ModelHub
    ) -> dg.MaterializeResult[pl.DataFrame]:
        from gradsim_assets.core.engine import trainable_components

        with input_errors():
            model_id = model_id_of(context.partition_key)
            revision = revision_for_run(context, hub, model_id)
            components = trainable_components(hub.skeleton(model_id, revision))
        frame = parameters_per_component({name: parameter.numel() for name, parameter in components})
        return table_result(
            PARAMETERS_PER_COMPONENT,
            frame,
            metadata={
                "parameters": int(frame["parameters"].sum()),
                "components": frame.height,
                **plot_metadata(plots_of(PARAMETERS_PER_COMPONENT.name, frame)),
            },
            provenance=provenance_of(hub, model_id, revision),
            tags=revision_tags(context),
        )

    return parameters_per_component_


def _analysis(analysis: Analysis, setting: str) -> dg.AssetsDefinition:
    schema = analysis.schema

    @dg.asset(
        name=setting,
        key_prefix=[schema.name],
        group_name=GROUP,
        partitions_def=MODELS,
        ins={
            "dot_products": dg.AssetIn([DOT_PRODUCTS.name, setting], partition_mapping=BY_MODEL),
            "parameters": dg.AssetIn(PARAMETERS_PER_COMPONENT.name),
        },
        kinds=KINDS,
        metadata=column_schema(schema),
        code_version=code_version("core/pairs.py", "core/components.py", *analysis.modules),
        description=f"{analysis.description} Variants: {setting}.",
    )
    def run_analysis(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        with input_errors():
            frame = analysis.compute(
                PairProducts.from_frame(dot_products, parameters["component"].to_list()), parameters
            )
        provenance = _provenance(context, store, setting, dot_products)
        return table_result(
            schema, frame, metadata=plot_metadata(plots_of(schema.name, frame, setting)), provenance=provenance
        )

    return run_analysis


def _retrieval(setting: str, partitions: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        name=setting,
        key_prefix=[RETRIEVAL.name],
        group_name=GROUP,
        partitions_def=MODELS,
        ins={
            "dot_products": dg.AssetIn([DOT_PRODUCTS.name, setting], partition_mapping=BY_MODEL),
            "parameters": dg.AssetIn(PARAMETERS_PER_COMPONENT.name),
        },
        deps=[
            dg.AssetDep([PROJECTED_SIMILARITY.name, setting], partition_mapping=BY_MODEL),
            dg.AssetDep(BM25_CANDIDATES.name, partition_mapping=ALL),
        ],
        kinds=KINDS,
        metadata=column_schema(RETRIEVAL),
        code_version=code_version("core/pairs.py", "core/retrieval.py"),
        description=(
            f"Which method finds the right original ({setting}): full gradient, random projections, BM25, the best "
            "component, chance. Differences whose intervals overlap widely, or with a large p-value, say nothing."
        ),
    )
    def run_retrieval(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        model, shards = context.partition_key, partitions.shards.get_partition_keys()
        with input_errors():
            pairs = PairProducts.from_frame(dot_products, parameters["component"].to_list())
            projected = store.optional([PROJECTED_SIMILARITY.name, setting], [Partition(model, s) for s in shards])
            # Imported results have no scores of ours, only the order of their candidates.
            imported = store.tables.provenance([DOT_PRODUCTS.name, setting], Partition(model, shards[0])).get(
                "imported"
            )
            bm25 = None if imported else store.optional([BM25_CANDIDATES.name], [Partition(shard=s) for s in shards])
            frame = retrieval(pairs, projected, order_as_bm25(pairs) if bm25 is None else bm25, parameters)
        accuracy = dict(frame.select("method", "accuracy").iter_rows())
        metadata = {
            **{f"accuracy/{method}": value for method, value in accuracy.items() if value is not None},
            **plot_metadata(plots_of(RETRIEVAL.name, frame, setting)),
        }
        provenance = _provenance(context, store, setting, dot_products)
        return table_result(RETRIEVAL, frame, metadata=metadata, provenance=provenance)

    return run_retrieval


def _model_comparison() -> dg.AssetsDefinition:
    @dg.asset(
        name=MODEL_COMPARISON.name,
        group_name=GROUP,
        deps=[dg.AssetDep([RETRIEVAL.name, setting], partition_mapping=ALL) for setting in SETTINGS],
        kinds=KINDS,
        metadata=column_schema(MODEL_COMPARISON),
        code_version=code_version("core/comparison.py"),
        description="The retrieval figures of every model side by side; models without results yet are left out.",
    )
    def model_comparison_(context: dg.AssetExecutionContext, store: TableStore) -> dg.MaterializeResult[pl.DataFrame]:
        slugs = context.instance.get_dynamic_partitions(str(MODELS.name))
        found = _retrievals(slugs, store)
        context.log.info(f"{len({model for model, _ in found})} of {len(slugs)} models have results")
        frame = model_comparison(found)
        return table_result(
            MODEL_COMPARISON,
            frame,
            metadata=plot_metadata(plots_of(MODEL_COMPARISON.name, frame)),
            provenance={"revisions": _revisions(found, store)},
        )

    return model_comparison_


def _retrievals(slugs: Iterable[str], store: TableStore) -> dict[tuple[str, str], pl.DataFrame]:
    with input_errors():
        return {
            (model_id_of(slug), setting): store.tables.read([RETRIEVAL.name, setting], Partition(slug))
            for slug in sorted(slugs)
            for setting in SETTINGS
            if store.tables.exists([RETRIEVAL.name, setting], Partition(slug))
        }


def _revisions(found: Iterable[tuple[str, str]], store: TableStore) -> dict[str, str | None]:
    """The revision of every model whose retrieval tables (model, setting) were found; None for imported ones."""
    return {
        model: store.tables.provenance([RETRIEVAL.name, setting], Partition(model_slug(model))).get("revision")
        for model, setting in found
    }


def _provenance(
    context: dg.AssetExecutionContext, store: TableStore, setting: str, dot_products: pl.LazyFrame
) -> dict[str, Any]:
    return {
        "model": model_id_of(context.partition_key),
        **carried(context, store, [DOT_PRODUCTS.name, setting], "dot_products"),
        DOT_PRODUCTS.name: fingerprint(dot_products),
    }
