"""`originals_source`: what the configured source of originals holds now."""

import dagster as dg

from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.orchestration.observations import source_sighting
from gradsim_assets.resources.sample_sources import SampleSources

ORIGINALS_SOURCE = dg.AssetKey("originals_source")


def build() -> dg.SourceAsset:
    """The source as an observable asset."""

    @dg.observable_source_asset(
        name=ORIGINALS_SOURCE.path[0],
        group_name=DATASETS,
        description=(
            "Where the originals come from (`data.originals`). Its data version is the content of the file, or the commit on "
            "the hub: an edited file leaves what depends on the originals stale, a moved one nothing."
        ),
    )
    @fails_in_one_sentence
    def originals_source(sources: SampleSources) -> dg.ObserveResult:
        seen = source_sighting(sources.originals, sources.originals_version())
        return dg.ObserveResult(data_version=dg.DataVersion(seen.version), metadata=seen.metadata())

    return originals_source
