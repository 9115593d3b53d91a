"""The latest event of every partition of an asset, read together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import dagster as dg

T = TypeVar("T")

#: Ids in one query; SQLite allows 999 variables in old versions.
_CHUNK = 900


def in_chunks(ids: Iterable[T]) -> Iterator[list[T]]:
    """Ids in order, as many at a time as one query may name."""
    wanted = list(ids)
    for start in range(0, len(wanted), _CHUNK):
        yield wanted[start : start + _CHUNK]


def latest_records(
    instance: dg.DagsterInstance, key: dg.AssetKey, observations: bool = False
) -> dict[str, dg.EventLogRecord]:
    """The latest materialisation, or with `observations` the latest observation, of every partition that has one."""
    event = dg.DagsterEventType.ASSET_OBSERVATION if observations else dg.DagsterEventType.ASSET_MATERIALIZATION
    fetch = instance.fetch_observations if observations else instance.fetch_materializations
    records = records_of(fetch, key, latest_ids(instance, key, event).values())
    return {str(record.partition_key): record for record in records}


def latest_ids(instance: dg.DagsterInstance, key: dg.AssetKey, event: dg.DagsterEventType) -> Mapping[str, int]:
    """The storage id of the latest event of a kind for every partition that has one."""
    return instance.event_log_storage.get_latest_storage_id_by_partition(key, event)


def records_of(fetch: Callable[..., Any], key: dg.AssetKey, ids: Iterable[int]) -> list[dg.EventLogRecord]:
    """The events with those storage ids, by the instance's method that fetches their kind."""
    return [
        record
        for chunk in in_chunks(ids)
        for record in fetch(dg.AssetRecordsFilter(key, storage_ids=chunk), limit=len(chunk)).records
    ]
