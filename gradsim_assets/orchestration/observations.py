"""Observations of what lies outside: at which version a source stands, and from which one a table was made."""

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)


def observation(key: dg.AssetKey, version: str, partition: str | None = None) -> dg.AssetObservation:
    """The event that says at which version a source stands, so that tables made from another one show as stale."""
    return dg.AssetObservation(key, partition=partition, tags={DATA_VERSION_TAG: version})


def observed_versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str | None, str]:
    """The version at which every partition of a source was observed last; under None that of one without partitions."""
    observed = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    found: dict[str | None, str] = {name: tags[DATA_VERSION_TAG] for name, tags in observed.items()}
    latest = instance.get_latest_data_version_record(key, True)
    version = extract_data_version_from_entry(latest.event_log_entry) if latest and not latest.partition_key else None
    return {**found, None: version.value} if version else found


def observed(instance: dg.DagsterInstance, key: dg.AssetKey, version: str, partition: str | None = None) -> int:
    """Storage id of the observation of this version, recorded now unless it is the latest one already."""
    latest = instance.get_latest_data_version_record(key, True, partition)
    if latest is None or extract_data_version_from_entry(latest.event_log_entry) != dg.DataVersion(version):
        instance.report_runless_asset_event(observation(key, version, partition))
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
