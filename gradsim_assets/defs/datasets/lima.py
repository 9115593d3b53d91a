"""The asset `lima`: the originals."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.lima import Originals, hub_repo
from gradsim_assets.core.datasets.originals_source import version_read
from gradsim_assets.core.errors import ServiceError
from gradsim_assets.core.samples import sample_frame
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.datasets.originals_source import ORIGINALS_SOURCE
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.orchestration.observations import made_from, observed
from gradsim_assets.resources.sample_sources import SampleSources

#: What is kept of originals beside their conversations, of which no table of conversations is made.
OTHER_COLUMNS = ("core.datasets.sample_columns",)


def build(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=DATASETS,
        kinds={"polars", "parquet"},
        metadata=column_schema(LIMA),
        code_version=code_version(
            "resources.sample_sources",
            sample_frame,
            "core.tables.schemas:LIMA",
            without=OTHER_COLUMNS,
        ),
        deps=[ORIGINALS_SOURCE],
        retry_policy=RETRIES if hub_repo(settings.data.originals) else None,
        description="The originals: training samples (conversations) that the model was fine-tuned on. The first `data.samples` of them.",
    )
    @fails_in_one_sentence
    def lima(context: dg.AssetExecutionContext, sources: SampleSources) -> dg.MaterializeResult[pl.DataFrame]:
        originals = sources.read_originals()
        samples, notes = originals.samples, originals.notes
        context.log.info(f"{len(samples)} originals from {sources.originals}")
        for note in notes:
            context.log.info(note)
        tags = made_from_source(context, sources, originals)
        return table_result(
            LIMA,
            sample_frame(samples),
            metadata={"read": "; ".join(notes)},
            provenance={"source": sources.originals},
            tags=tags,
        )

    return lima


def made_from_source(context: dg.AssetExecutionContext, sources: SampleSources, originals: Originals) -> dict[str, str]:
    """Tags that say which version of the source was read; none where the hub does not say now at which commit it stands."""
    try:
        version = sources.originals_version() if hub_repo(sources.originals) else version_read(originals)
    except ServiceError as error:
        context.log.warning(str(error))
        return {}
    return made_from(ORIGINALS_SOURCE, version, observed(context.instance, ORIGINALS_SOURCE, version))
