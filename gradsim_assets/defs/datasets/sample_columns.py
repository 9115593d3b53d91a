"""The asset `sample_columns`: what the source of originals has besides conversations."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.retrieval_by_group import grouping
from gradsim_assets.core.datasets.lima import hub_repo
from gradsim_assets.core.tables.schemas import LIMA, SAMPLE_COLUMNS
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.datasets.lima import made_from_source
from gradsim_assets.defs.datasets.originals_source import ORIGINALS_SOURCE
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.resources.sample_sources import SampleSources


def build(settings: Settings) -> dg.AssetsDefinition:
    asked = settings.analysis.group_by

    @dg.asset(
        name=SAMPLE_COLUMNS.name,
        group_name=DATASETS,
        kinds={"polars", "parquet"},
        metadata=column_schema(SAMPLE_COLUMNS),
        code_version=code_version(
            "resources.sample_sources",
            grouping,
            "core.tables.schemas:SAMPLE_COLUMNS",
            config="" if asked is None else f"group_by={list(asked)}",
        ),
        deps=[ORIGINALS_SOURCE, LIMA.name],  # whose ids they have
        retry_policy=RETRIES if hub_repo(settings.data.originals) else None,
        description=(
            "The other columns of the originals (topic, language, source), by id, which analyses are grouped by. No gradient "
            "is made from them: a column that is added or corrected costs analyses alone."
        ),
    )
    @fails_in_one_sentence
    def sample_columns(context: dg.AssetExecutionContext, sources: SampleSources) -> dg.MaterializeResult[pl.DataFrame]:
        originals = sources.read_originals()
        # What analyses cannot be grouped by is said now, before anything is spent.
        chosen = grouping(originals.columns, asked)
        for note in chosen.notes:
            context.log.info(note)
        metadata = {"read": "; ".join(originals.notes), "grouped by": ", ".join(chosen.groups) or "nothing"}
        return table_result(
            SAMPLE_COLUMNS,
            originals.columns,
            metadata=metadata,
            provenance={"source": sources.originals},
            tags=made_from_source(context, sources, originals),
        )

    return sample_columns
