"""The assets `retrieval_<setting>`."""

from collections.abc import Sequence

import dagster as dg
import numpy as np
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.headline_figures import headline_figures
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.analysis.retrieval import order_as_bm25, retrieval, text_overlap
from gradsim_assets.core.datasets.lacking import lacking
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import (
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    LIMA,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    RETRIEVAL,
    SETTINGS,
)
from gradsim_assets.core.tables.storage import Partition
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
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, MODELS, Partitions
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return [_build(setting, partitions, settings.preconditioners.methods) for setting in SETTINGS]


def _build(setting: str, partitions: Partitions, preconditioners: Sequence[str]) -> dg.AssetsDefinition:
    under = [PRECONDITIONED_PRODUCTS.name, setting]

    @dg.asset(
        key=asset_key(RETRIEVAL.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        ins={
            "dot_products": dg.AssetIn(asset_key(DOT_PRODUCTS.name, setting), partition_mapping=BY_MODEL),
            "parameters": dg.AssetIn(PARAMETERS_PER_COMPONENT.name),
        },
        deps=[
            dg.AssetDep(asset_key(PROJECTED_SIMILARITY.name, setting), partition_mapping=BY_MODEL),
            *(dg.AssetDep(table.name, partition_mapping=ALL) for table in (LIMA, BM25_CANDIDATES)),
            *([dg.AssetDep(asset_key(*under), partition_mapping=BY_MODEL)] if preconditioners else []),
            dg.AssetDep(setting, partition_mapping=ALL if setting == PARAPHRASED.name else BY_MODEL),
        ],
        kinds=TABLE_KINDS,
        metadata=column_schema(RETRIEVAL),
        code_version=code_version(retrieval, order_as_bm25, text_overlap, config=" ".join(preconditioners)),
        description=(
            f"Which method finds the right original ({setting}): full gradient, preconditioners, random projections, BM25, the "
            "overlap of the answers' texts, the best component, chance. Differences whose intervals overlap widely, or with a "
            "large p-value, say nothing."
        ),
    )
    @fails_in_one_sentence
    def run_retrieval(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        model, shards = context.partition_key, partitions.shards.get_partition_keys()
        pairs = PairProducts.from_frame(dot_products, parameters["component"].to_list())
        projected = store.optional([PROJECTED_SIMILARITY.name, setting], [Partition(model, s) for s in shards])
        # Imported results have no scores of ours, only the order of their candidates.
        imported = store.tables.provenance([DOT_PRODUCTS.name, setting], Partition(model, shards[0])).get("imported")
        bm25 = None if imported else store.optional([BM25_CANDIDATES.name], [Partition(shard=s) for s in shards])
        variants = None if imported else store.variants(setting, model, shards)
        verbatim = None if variants is None else dict(variants.select("id", "verbatim").drop_nulls().iter_rows())
        overlap = None if variants is None else _overlap(pairs, variants, store)
        preconditioned = store.optional(under, [Partition(model, s) for s in shards]) if preconditioners else None
        ranked = order_as_bm25(pairs) if bm25 is None else bm25
        frame = retrieval(pairs, projected, ranked, parameters, verbatim, overlap, preconditioned)
        paraphrased = store.optional([PARAPHRASED.name], [Partition(shard=s) for s in shards])
        metadata = {
            **figure_metadata(headline_figures(RETRIEVAL.name, frame)),
            "variants": len(pairs.candidates.variants),
            **({} if imported or paraphrased is None else {"missing": lacking(paraphrased).count}),
            **plot_metadata(plots_of(RETRIEVAL.name, frame, setting)),
        }
        provenance = model_provenance(context, store, setting, dot_products)
        return table_result(RETRIEVAL, frame, metadata=metadata, provenance=provenance)

    return run_retrieval


def _overlap(pairs: PairProducts, variants: pl.DataFrame, store: TableStore) -> np.ndarray | None:
    """The overlap of the texts of all pairs; None where a text is not there any more, as under products that are stale."""
    originals = store.optional([LIMA.name], [Partition()])
    found = None if originals is None else text_overlap(pairs.candidates, variants, originals)
    return None if found is None or np.isnan(found).any() else found
