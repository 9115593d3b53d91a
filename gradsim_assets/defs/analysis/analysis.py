"""What `accuracy_per_component`, `agreement`, `greedy_selection` and `self_similarity` have in common."""

from collections.abc import Callable

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.headline_figures import headline_figures
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, PARAMETERS_PER_COMPONENT, SETTINGS
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import (
    column_schema,
    figure_metadata,
    model_provenance,
    plot_metadata,
    table_result,
)
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import BY_MODEL, MODELS
from gradsim_assets.resources.table_store import TableStore

#: From the products of a model's pairs and the table `parameters_per_component` to a table.
Compute = Callable[[PairProducts, pl.DataFrame], pl.DataFrame]


def build_analysis(schema: TableSchema, compute: Compute, description: str) -> list[dg.AssetsDefinition]:
    """One asset a setting for an analysis that needs the dot products and the parameter counts alone."""
    return [_build(schema, compute, description, setting) for setting in SETTINGS]


def _build(schema: TableSchema, compute: Compute, description: str, setting: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(schema.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        ins={
            "dot_products": dg.AssetIn(asset_key(DOT_PRODUCTS.name, setting), partition_mapping=BY_MODEL),
            "parameters": dg.AssetIn(PARAMETERS_PER_COMPONENT.name),
        },
        kinds=TABLE_KINDS,
        metadata=column_schema(schema),
        code_version=code_version(compute),
        description=f"{description} Variants: {setting}.",
    )
    @fails_in_one_sentence
    def run_analysis(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        frame = compute(PairProducts.from_frame(dot_products, parameters["component"].to_list()), parameters)
        provenance = model_provenance(context, store, setting, dot_products)
        metadata = {
            **figure_metadata(headline_figures(schema.name, frame)),
            **plot_metadata(plots_of(schema.name, frame, setting)),
        }
        return table_result(schema, frame, metadata=metadata, provenance=provenance)

    return run_analysis
