"""The asset `lima`: the originals."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.lima import LIMA_HUB
from gradsim_assets.core.samples import sample_frame
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.resources.sample_sources import SampleSources


def build(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=DATASETS,
        kinds={"polars", "parquet"},
        metadata=column_schema(LIMA),
        code_version=code_version(
            "resources.sample_sources",
            sample_frame,
            "core.tables.schemas:LIMA",
            config=f"{settings.data.originals} {settings.data.samples}",
        ),
        retry_policy=RETRIES if settings.data.originals == LIMA_HUB else None,
        description="The originals: single-turn training samples that the model was fine-tuned on. The first `data.samples` of them.",
    )
    @fails_in_one_sentence
    def lima(context: dg.AssetExecutionContext, sources: SampleSources) -> dg.MaterializeResult[pl.DataFrame]:
        samples = sources.load_originals()
        context.log.info(f"{len(samples)} originals from {sources.originals}")
        return table_result(LIMA, sample_frame(samples), provenance={"source": sources.originals})

    return lima
