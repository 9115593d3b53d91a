"""The latest event of every partition of an asset, read together."""

import dagster as dg

#: Records fetched by one query; SQLite allows 999 variables in old versions.
_CHUNK = 900


def latest_records(
    instance: dg.DagsterInstance, key: dg.AssetKey, observations: bool = False
) -> dict[str, dg.EventLogRecord]:
    """The latest materialisation, or with `observations` the latest observation, of every partition that has one."""
    event = dg.DagsterEventType.ASSET_OBSERVATION if observations else dg.DagsterEventType.ASSET_MATERIALIZATION
    fetch = instance.fetch_observations if observations else instance.fetch_materializations
    ids = list(instance.event_log_storage.get_latest_storage_id_by_partition(key, event).values())
    chunks = [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
    records = [
        record
        for chunk in chunks
        for record in fetch(dg.AssetRecordsFilter(key, storage_ids=chunk), limit=len(chunk)).records
    ]
    return {str(record.partition_key): record for record in records}
