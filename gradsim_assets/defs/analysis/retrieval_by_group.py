"""The assets `retrieval_by_group_<setting>`."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.retrieval import methods
from gradsim_assets.core.analysis.retrieval_by_group import grouping, retrieval_by_group, small_groups
from gradsim_assets.core.candidates.chosen_candidates import among_an_index
from gradsim_assets.core.tables.schemas import (
    FULL_GRADIENT,
    RETRIEVAL_BY_GROUP,
    SAMPLE_COLUMNS,
    SETTINGS,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.analysis.scored_methods import ScoredMethods
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, figure_metadata, model_provenance, table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import ALL, MODELS, Partitions
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return [_build(setting, settings, partitions) for setting in SETTINGS]


def _build(setting: str, settings: Settings, partitions: Partitions) -> dg.AssetsDefinition:
    asked = settings.analysis.group_by
    scored = ScoredMethods.configured(setting, settings, partitions)

    @dg.asset(
        key=asset_key(RETRIEVAL_BY_GROUP.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        ins=scored.ins,
        deps=[*scored.deps, dg.AssetDep(SAMPLE_COLUMNS.name, partition_mapping=ALL)],
        kinds=TABLE_KINDS,
        metadata=column_schema(RETRIEVAL_BY_GROUP),
        code_version=code_version(
            *scored.code,
            methods,
            grouping,
            retrieval_by_group,
            config=f"{scored.config} group_by={'found' if asked is None else list(asked)}",
        ),
        description=(
            f"Accuracy and reciprocal ranks of every method ({setting}) by a column of the originals, such as topic or language: "
            "those of analysis.group_by, or those that serve. Groups are many, and intervals are those of each by itself."
        ),
    )
    @fails_in_one_sentence
    def by_group(
        context: dg.AssetExecutionContext, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        scores = scored.read(context.partition_key, dot_products, parameters, store)
        columns = store.optional([SAMPLE_COLUMNS.name], [Partition()])
        # Imported results have no originals.
        chosen = grouping(SAMPLE_COLUMNS.empty(), None) if columns is None else grouping(columns, asked)
        rows = methods(scores.pairs, **scores.by_method)
        frame = retrieval_by_group(scores.pairs.candidates, rows, chosen.groups)
        small = small_groups(frame)
        for sentence in (*chosen.notes, *small):
            context.log.info(sentence)
        metadata = {
            "grouped by": ", ".join(chosen.groups) or "nothing",
            **figure_metadata(_figures(frame)),
            **({"small groups": " ".join(small)} if small else {}),
        }
        provenance = model_provenance(context, store, setting, dot_products)
        if said := among_an_index([provenance.get("candidates")]):
            metadata["candidates"] = said
        return table_result(RETRIEVAL_BY_GROUP, frame, metadata=metadata, provenance=provenance)

    return by_group


def _figures(frame: pl.DataFrame) -> dict[str, float | str | None]:
    """The full gradient's accuracy by group, small groups left out."""
    shown = frame.filter(pl.col("method") == FULL_GRADIENT, ~pl.col("small"))
    return {
        f"accuracy/{column}/{'(none)' if group is None else group}": accuracy
        for column, group, accuracy in shown.select("column", "group", "accuracy").iter_rows()
    }
