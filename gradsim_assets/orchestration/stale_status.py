"""Dagster's own stale status, asked for thousands of partitions at once."""

import gc
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import dagster as dg

from gradsim_assets.orchestration.asset_keys import READS_OTHER_MODELS, waits_only
from gradsim_assets.orchestration.controls import places_read
from gradsim_assets.orchestration.dagster_internals import (
    SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD,
    AssetKeyPartitionKey,
    BaseAssetGraph,
    DataProvenance,
    DataVersion,
    EventLogRecord,
    LoadingContext,
    OpenResolver,
    StaleStatus,
    extract_data_version_from_entry,
    use_partition_loading_context,
)
from gradsim_assets.orchestration.index_lookups import OF_INDEX, looks_up
from gradsim_assets.orchestration.latest_records import latest_records
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.partitions import dimensions_of, place_of, registered

#: Up to so many partitions, asking for each costs less than reading the records of all.
_FEW = 50


@contextmanager
def without_collecting() -> Iterator[None]:
    """While thousands of partitions are asked for, nothing is searched for garbage.

    Their records are millions of objects and all in use; Python goes through them again and again, a fifth of the whole time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class LoaderContext(LoadingContext):
    """What Dagster batches its own look-ups in; one per question, since it caches."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[Any, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[Any, Any]:
        return self._loaders


class StatusResolver(OpenResolver):
    """Answers as its base class does, from the latest records of all partitions of an asset, which are read together.

    The base class asks the storage about five times for every partition, which takes half a minute for 1,800 of them, and
    works out every single dependency through Dagster's general mappings. Ours all say the same: partitions belong together
    that are equal in the dimensions that both have. One resolver answers one question; what changes afterwards it does not see.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        graph: BaseAssetGraph,
        partitions: int | None = None,
        files: LostFiles | None = None,
    ) -> None:
        """`partitions` is about how many of them the question is; None for many. `files` are looked at by `why_lost`."""
        super().__init__(instance, graph, LoaderContext(instance))
        self._files = files
        self._few = partitions is not None and partitions <= _FEW
        self._record = cache(instance.get_latest_data_version_record)
        self._latest = cache(self._fetch_latest)
        self._version_at = cache(self._fetch_version_at)
        self._by_levels = cache(self._sort_by_levels)
        self._newest = cache(self._newest_event)
        self._models = cache(lambda: registered(instance))

    @use_partition_loading_context
    def changed_since_planned(self, key: AssetKeyPartitionKey) -> bool:
        """Whether an input of a partition is newer than the plan of its last run, and was not made by that run itself."""
        wanted = dg.AssetRecordsFilter(
            key.asset_key, asset_partitions=[key.partition_key] if key.partition_key else None
        )
        planned = self.instance.fetch_planned_materializations(wanted, limit=1).records
        records = map(self.latest_record, self.dependencies(key))
        return not planned or any(
            record.storage_id > planned[0].storage_id and record.run_id != planned[0].run_id
            for record in records
            if record
        )

    @use_partition_loading_context
    def is_early(self, key: AssetKeyPartitionKey) -> bool:
        """Whether something that a partition is made from, directly or not, is to be computed by automation before it.

        What is stale and has the same partitions is computed in the same run, in order, and so is waited for by nobody: a whole
        pass is one run. What lies behind something that is fresh yet turns out as stale only when that run is over.
        """
        run = self.asset_graph.get(key.asset_key).partitions_def
        seen: set[tuple[AssetKeyPartitionKey, bool]] = set()

        def waits(target: AssetKeyPartitionKey, in_run: bool) -> bool:
            if (target, in_run) in seen:
                return False
            seen.add((target, in_run))
            for one in self.dependencies(target):
                node = self.asset_graph.get(one.asset_key)
                if not node.automation_condition:
                    continue
                stale = self.get_status(one.asset_key, one.partition_key) == StaleStatus.STALE
                # A run has one partition, and no other model's table is made in it.
                with_it = in_run and stale and node.partitions_def == run and target.asset_key not in READS_OTHER_MODELS
                if (stale and not with_it) or waits(one, with_it):
                    return True
            return False

        return waits(key, True)

    @use_partition_loading_context
    def lacks_its_own(self, key: AssetKeyPartitionKey) -> bool:
        """Whether something in its own place that a partition is made from was never computed, whatever else it reads."""
        own = [one for one in self.dependencies(key) if one.partition_key == key.partition_key]
        return any(self.get_status(one.asset_key, one.partition_key) == StaleStatus.MISSING for one in own)

    def why_lost(self, key: dg.AssetKey, partition: str | None) -> str | None:
        """Why the file of a materialised partition cannot be used, in one sentence; None where it can, or never was there."""
        record = self.latest_record(AssetKeyPartitionKey(key, partition)) if self._files else None
        if record is None or self._files is None:
            return None
        place = place_of(partition, self.asset_graph.get(key).partitions_def)
        return self._files.why(key, place, record.event_log_entry)

    def counts(self, key: dg.AssetKey, parent: dg.AssetKey, has_changed: bool) -> bool:
        # Models that begin or cease to look in their index have other candidates of BM25, too, or are of another version.
        return not waits_only(key, parent) and (has_changed or parent not in OF_INDEX)

    def dependencies(self, key: AssetKeyPartitionKey) -> list[AssetKeyPartitionKey]:
        return self._dependencies(key, self.asset_graph.get(key.asset_key).parent_keys)

    def suspects(self, key: AssetKeyPartitionKey) -> list[AssetKeyPartitionKey]:
        """The dependencies without those of assets of which nothing was recorded since the partition was made."""
        made_from = self.provenance(key)

        def is_suspect(parent: dg.AssetKey) -> bool:
            known = made_from is not None and made_from.has_input_asset(parent)
            return not known or self._newest(parent) > (made_from.input_storage_ids[parent] or 0)  # type: ignore[union-attr]

        return self._dependencies(key, filter(is_suspect, self.asset_graph.get(key.asset_key).parent_keys))

    def _dependencies(self, key: AssetKeyPartitionKey, parents: Iterable[dg.AssetKey]) -> list[AssetKeyPartitionKey]:
        node = self.asset_graph.get(key.asset_key)
        place = place_of(key.partition_key, node.partitions_def)
        read = places_read(self.asset_graph, key.asset_key, place, self._models())
        places = [dict(place.levels) for place in read]
        found = []
        for parent in parents:
            if waits_only(key.asset_key, parent) or not looks_up(self.asset_graph, parent, place.model):
                continue
            named = dimensions_of(self.asset_graph.get(parent).partitions_def)
            shared = tuple(name for name in named if name in places[0])
            by_levels = self._by_levels(parent, shared)
            keys = [one for where in places for one in by_levels[tuple(where[name] for name in shared)]]
            if len(keys) < SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD:
                found += keys
        return found

    def _sort_by_levels(
        self, key: dg.AssetKey, dimensions: tuple[str, ...]
    ) -> Mapping[tuple[str, ...], list[AssetKeyPartitionKey]]:
        """The partitions of an asset by their keys in some of its dimensions."""
        found: dict[tuple[str, ...], list[AssetKeyPartitionKey]] = defaultdict(list)
        definition = self.asset_graph.get(key).partitions_def
        for partition in definition.get_partition_keys() if definition else [None]:
            levels = dict(place_of(partition, definition).levels)
            found[tuple(levels[name] for name in dimensions)].append(AssetKeyPartitionKey(key, partition))
        return found

    def latest_record(self, key: AssetKeyPartitionKey) -> EventLogRecord | None:
        if key.partition_key is None:
            return super().latest_record(key)
        if self._few:
            return self._record(key.asset_key, self.asset_graph.get(key.asset_key).is_external, key.partition_key)
        return self._latest(key.asset_key).get(key.partition_key)

    def is_updated(self, provenance: DataProvenance, dependency: AssetKeyPartitionKey) -> bool:
        if dependency.partition_key is None:
            return super().is_updated(provenance, dependency)
        cursor = provenance.input_storage_ids[dependency.asset_key]
        latest = self.latest_record(dependency)
        if latest is None or latest.storage_id <= (cursor or 0):
            return False
        now = extract_data_version_from_entry(latest.event_log_entry)
        return self.differ(self._version_at(dependency, cursor), now)

    def _fetch_version_at(self, key: AssetKeyPartitionKey, cursor: int | None) -> DataVersion | None:
        """The data version that a partition had when the record of that storage id was the latest one of its asset; None where it
        had none yet, as before anything was made on request.
        """
        if cursor is None:
            return None
        external = self.asset_graph.get(key.asset_key).is_external
        record = self.instance.get_latest_data_version_record(key.asset_key, external, key.partition_key, cursor + 1)
        return extract_data_version_from_entry(record.event_log_entry) if record else None

    def _newest_event(self, key: dg.AssetKey) -> float:
        """The storage id of an asset's latest record, of whatever partition; without end where it is not known for all."""
        if self._few or self.asset_graph.get(key).partitions_def is None:
            return math.inf
        return max((record.storage_id for record in self._latest(key).values()), default=0)

    def _fetch_latest(self, key: dg.AssetKey) -> Mapping[str, EventLogRecord]:
        return latest_records(self.instance, key, observations=self.asset_graph.get(key).is_external)
