"""Observations of what lies outside: at which version a source stands, and from which one a table was made."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from gradsim_assets.orchestration.latest_records import latest_records

#: Tag of a materialisation of a source's partition: what decided that which the UI shows of it, so that nothing is recorded twice.
_SHOWN_TAG = "gradsim/shown"

#: What the UI shows of a partition, by name.
Metadata = Mapping[str, Any]


def observation(
    key: dg.AssetKey, version: str, partition: str | None = None, metadata: Metadata | None = None
) -> dg.AssetObservation:
    """The event that says at which version a source stands, so that tables made from another one show as stale."""
    return dg.AssetObservation(key, partition=partition, tags={DATA_VERSION_TAG: version}, metadata=metadata)


@dataclass(frozen=True)
class Sighting:
    """What was seen of a source or one of its partitions.

    Attributes:
        version: where it stands.
        metadata: what the UI shows of it; asked for when it is recorded.
        settings: what decides that metadata beside the version.
    """

    version: str
    metadata: Callable[[], Metadata] = dict
    settings: str = ""

    @property
    def mark(self) -> str:
        """A hash of all that decides what is shown."""
        return hashlib.sha256(f"{self.version}\n{self.settings}".encode()).hexdigest()[:16]


def source_sighting(source: str, version: str) -> Sighting:
    """What was seen of a source of samples, which is shown with its version; `source` is as gradsim.toml names it."""
    return Sighting(version, lambda: {"source": source, "version": version}, source)


def filling(key: dg.AssetKey, partition: str, seen: Sighting, metadata: Metadata) -> dg.AssetMaterialization:
    """The event by which the UI draws a partition of a source as there: it fills partitions by materialisations alone.

    It says the same version as the observation, and belongs behind it: a step takes the latest materialisation of an asset,
    where there is one, for what it has read.
    """
    tags = {DATA_VERSION_TAG: seen.version, _SHOWN_TAG: seen.mark}
    return dg.AssetMaterialization(key, partition=partition, tags=tags, metadata=metadata)


def shown_marks(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The mark of what the UI shows of every partition of a source that it draws as there."""
    marks = {partition: _mark_in(found) for partition, found in latest_records(instance, key).items()}
    return {partition: mark for partition, mark in marks.items() if mark is not None}


def _mark_in(found: dg.EventLogRecord) -> str | None:
    event = found.asset_materialization
    return event.tags.get(_SHOWN_TAG) if event and event.tags else None


def record(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, seen: Sighting) -> int:
    """Records what was seen and has the UI show it, each unless that is done already; the observation's storage id."""
    pointer = observed(instance, key, seen.version, partition, seen.metadata)
    if partition is None:
        return pointer
    of_partition = dg.AssetRecordsFilter(key, asset_partitions=[partition])
    shown = instance.fetch_materializations(of_partition, limit=1).records
    if not shown or _mark_in(shown[0]) != seen.mark:
        instance.report_runless_asset_event(filling(key, partition, seen, seen.metadata()))
    return pointer


def observed_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str | None, str]:
    """The version at which every partition of a source was observed last; under None that of one without partitions."""
    observed = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    found: dict[str | None, str] = {name: tags[DATA_VERSION_TAG] for name, tags in observed.items()}
    latest = instance.get_latest_data_version_record(key, True)
    version = extract_data_version_from_entry(latest.event_log_entry) if latest and not latest.partition_key else None
    return {**found, None: version.value} if version else found


def observed(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    version: str,
    partition: str | None = None,
    metadata: Callable[[], Metadata] = dict,
) -> int:
    """Storage id of the observation of this version, recorded now, with metadata, unless it is the latest one already."""
    latest = instance.get_latest_data_version_record(key, True, partition)
    if latest is None or extract_data_version_from_entry(latest.event_log_entry) != dg.DataVersion(version):
        instance.report_runless_asset_event(observation(key, version, partition, metadata()))
        wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
        for record in instance.fetch_observations(wanted, limit=20).records:
            if extract_data_version_from_entry(record.event_log_entry) == dg.DataVersion(version):
                return record.storage_id
    return latest.storage_id if latest else 0


def made_from(key: dg.AssetKey, version: str, pointer: int) -> dict[str, str]:
    """Tags of a materialisation that say which version of a source it was made from, and which observation that was.

    Dagster takes the latest observation when a step starts. A version that is observed between that and the step's reading
    would then pass for the one that was read, and a table of the old one would show as fresh.
    """
    return {get_input_data_version_tag(key): version, get_input_event_pointer_tag(key): str(pointer)}
