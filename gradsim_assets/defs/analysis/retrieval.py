"""The assets `retrieval_<setting>`."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.headline_figures import headline_figures
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.candidates.chosen_candidates import among_an_index
from gradsim_assets.core.datasets.lacking import lacking
from gradsim_assets.core.tables.schemas import PARAPHRASED, RETRIEVAL, SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.analysis.scored_methods import ScoredMethods
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
from gradsim_assets.orchestration.partitions import MODELS, Partitions
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return [_build(ScoredMethods.configured(setting, settings, partitions)) for setting in SETTINGS]


def _build(scored: ScoredMethods) -> dg.AssetsDefinition:
    setting = scored.setting

    @dg.asset(
        key=asset_key(RETRIEVAL.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        ins=scored.ins,
        deps=scored.deps,
        kinds=TABLE_KINDS,
        metadata=column_schema(RETRIEVAL),
        code_version=code_version(retrieval, *scored.code, config=scored.config),
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
        scores = scored.read(context.partition_key, dot_products, parameters, store)
        variants, shards = scores.variants, scored.partitions.shards.get_partition_keys()
        verbatim = None if variants is None else dict(variants.select("id", "verbatim").drop_nulls().iter_rows())
        frame = retrieval(scores.pairs, **scores.by_method, verbatim=verbatim)
        paraphrased = store.optional([PARAPHRASED.name], [Partition(shard=s) for s in shards])
        metadata = {
            **figure_metadata(headline_figures(RETRIEVAL.name, frame)),
            "variants": len(scores.pairs.candidates.variants),
            **({} if scores.is_imported or paraphrased is None else {"missing": lacking(paraphrased).count}),
            **plot_metadata(plots_of(RETRIEVAL.name, frame, setting)),
        }
        provenance = model_provenance(context, store, setting, dot_products)
        if said := among_an_index([provenance.get("candidates")]):
            metadata["candidates"] = said
        return table_result(RETRIEVAL, frame, metadata=metadata, provenance=provenance)

    return run_retrieval
