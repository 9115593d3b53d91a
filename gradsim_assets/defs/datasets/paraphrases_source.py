"""`paraphrases_source`: what the configured source of given paraphrases holds now."""

from collections.abc import Mapping

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.paraphrased import OPENAI
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.orchestration.observations import filling, observation, source_sighting
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets.resources.table_store import TableStore

PARAPHRASES_SOURCE = dg.AssetKey("paraphrases_source")


def build(settings: Settings, partitions: Partitions) -> list[dg.SourceAsset]:
    """The source as an observable asset; none of paraphrases by a chat model, which follow from what is asked."""

    @dg.observable_source_asset(
        name=PARAPHRASES_SOURCE.path[0],
        group_name=DATASETS,
        partitions_def=partitions.shards,
        description=(
            "Where given paraphrases come from (`data.paraphrases`). The data version of a shard is the content of its "
            "paraphrases: an edited one leaves its own shard stale, and what follows from it."
        ),
    )
    @fails_in_one_sentence
    def paraphrases_source(
        context: dg.OpExecutionContext, sources: SampleSources, store: TableStore
    ) -> dg.DataVersionsByPartition:
        versions = paraphrase_versions(sources, store, partitions.shard_count)
        for shard, version in versions.items():
            seen = source_sighting(sources.paraphrases, version)
            context.log_event(observation(PARAPHRASES_SOURCE, version, shard, seen.metadata()))
            context.log_event(filling(PARAPHRASES_SOURCE, shard, seen, seen.metadata()))
        return dg.DataVersionsByPartition({})  # all of it is told already

    return [] if settings.data.paraphrases == OPENAI else [paraphrases_source]


def paraphrase_versions(sources: SampleSources, store: TableStore, shards: int) -> Mapping[str, str]:
    """The version of every shard's paraphrases; raises InputError as `SampleSources.paraphrase_versions`."""
    known = None
    if store.tables.exists([LIMA.name]):
        known = store.tables.read([LIMA.name])["id"].to_list()
    return sources.paraphrase_versions(shards, known)
