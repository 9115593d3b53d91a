"""The assets `gradient_similarity_<setting>`: cosines derived from the dot products; no GPU."""

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, GRADIENT_SIMILARITY, SETTINGS
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, model_provenance, plot_metadata, table_result
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.partitions import BY_MODEL, MODELS
from gradsim_assets.resources.table_store import TableStore


def build() -> list[dg.AssetsDefinition]:
    """The similarities of both settings."""
    return [_similarity(setting) for setting in SETTINGS]


def _similarity(setting: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(GRADIENT_SIMILARITY.name, setting),
        group_name=groups.SIMILARITY,
        partitions_def=MODELS,
        ins={"dot_products": dg.AssetIn(asset_key(DOT_PRODUCTS.name, setting), partition_mapping=BY_MODEL)},
        kinds={"polars", "parquet"},
        metadata=column_schema(GRADIENT_SIMILARITY),
        code_version=code_version(gradient_similarity),
        description=(
            f"Cosine similarity of loss gradients for every pair ({setting}), for the full gradient and per component: "
            "near 1 where variant and original would change the model in the same way."
        ),
    )
    @fails_in_one_sentence
    def similarity(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        frame = gradient_similarity(PairProducts.from_frame(dot_products))
        provenance = model_provenance(context, store, setting, dot_products)
        shown = plot_metadata(plots_of(GRADIENT_SIMILARITY.name, frame, setting))
        return table_result(GRADIENT_SIMILARITY, frame, metadata=shown, provenance=provenance)

    return similarity
