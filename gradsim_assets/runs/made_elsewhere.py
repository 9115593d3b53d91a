"""Runs that were made on a copy of an instance's storage, recorded on the instance itself as if they had been made there.

An event says which other event something was made from by its number in the storage. Numbers of the copy that the instance
had already are the same in both; later ones are told by what they stand for, and looked up again.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from gradsim_assets.core.files import write_whole
from gradsim_assets.orchestration.dagster_internals import (
    INPUT_EVENT_POINTER_TAG_PREFIX,
    ExecutionPlanSnapshot,
    JobSnap,
    deserialize_value,
    extract_data_version_from_entry,
    serialize_value,
)
from gradsim_assets.orchestration.observations import observed

#: What an event of a check names the materialisation that it looked at, as Dagster writes it down.
_CHECKED = "AssetCheckEvaluationTargetMaterializationData"

#: So many of the latest materialisations of a partition are looked through for that of a run.
_LATEST = 20


def last_event(instance: dg.DagsterInstance) -> int:
    """The number of an instance's latest event; 0 where it has none."""
    return instance.event_log_storage.get_maximum_record_id() or 0


def write_run(instance: dg.DagsterInstance, run_id: str, shared: int, target: Path) -> None:
    """Writes a run with its events to a file.

    Args:
        instance: the copy.
        run_id: the run's id.
        shared: the number of the latest event that copy and original share.
        target: the file, JSON within gz.
    """
    run = instance.get_run_by_id(run_id)
    assert run is not None and run.job_snapshot_id and run.execution_plan_snapshot_id
    events = [json.loads(serialize_value(event)) for event in instance.all_logs(run_id)]
    document = {
        "run": serialize_value(run),
        "snapshots": [
            serialize_value(instance.get_job_snapshot(run.job_snapshot_id)),
            serialize_value(instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)),
        ],
        "events": events,
        "shared": shared,
        "later": dict(_told(instance, events, shared)),
    }
    write_whole(target, gzip.compress(json.dumps(document).encode()))


def take_over(instance: dg.DagsterInstance, source: Path) -> None:
    """Records a run that `write_run` has written, and its events; what is recorded already is not recorded twice."""
    document = json.loads(gzip.decompress(source.read_bytes()))
    run = deserialize_value(document["run"], dg.DagsterRun)
    if not instance.has_run(run.run_id):
        for snapshot in document["snapshots"]:
            instance.add_snapshot(deserialize_value(snapshot, (JobSnap, ExecutionPlanSnapshot)))
        instance.add_run(run)
    recorded = len(instance.all_logs(run.run_id))
    number = partial(_number_here, instance, document["shared"], document["later"])
    for event in document["events"][recorded:]:
        _renumber(event, number)
        instance.store_event(deserialize_value(json.dumps(event), dg.EventLogEntry))


def _told(instance: dg.DagsterInstance, events: list[Any], shared: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """By the number of each later event that others name, what it stands for."""
    for event in events:
        for key, number in _named(event):
            if number <= shared:
                continue
            wanted = dg.AssetRecordsFilter(dg.AssetKey.from_user_string(key), storage_ids=[number])
            record = (
                instance.fetch_materializations(wanted, 1).records or instance.fetch_observations(wanted, 1).records
            )[0]
            version = extract_data_version_from_entry(record.event_log_entry)
            yield (
                str(number),
                {
                    "asset": key,
                    "partition": record.partition_key,
                    "run": record.run_id,
                    "version": version.value if version else None,
                },
            )


def _named(event: Any) -> Iterator[tuple[str, int]]:
    """The events of assets that an event names, each by the asset and its number."""
    found: list[tuple[str, int]] = []

    def note(key: str, number: int) -> int:
        found.append((key, number))
        return number

    _renumber(event, note)
    return iter(found)


def _renumber(node: Any, number: Callable[[str, int], int], asset: str = "") -> None:
    """Gives other numbers to the events of assets that an event names, in place."""
    if isinstance(node, list):
        for one in node:
            _renumber(one, number, asset)
    if not isinstance(node, dict):
        return
    if node.get("__class__") == "AssetCheckEvaluation":
        asset = "/".join(node["asset_key"]["path"])
    if node.get("__class__") == _CHECKED:
        node["storage_id"] = number(asset, node["storage_id"])
    for name, value in node.items():
        if name.startswith(f"{INPUT_EVENT_POINTER_TAG_PREFIX}/") and str(value).isdigit():
            node[name] = str(number(name.removeprefix(f"{INPUT_EVENT_POINTER_TAG_PREFIX}/"), int(value)))
        else:
            _renumber(value, number, asset)


def _number_here(instance: dg.DagsterInstance, shared: int, later: dict[str, Any], asset: str, number: int) -> int:
    """The number that an event of the copy has on the instance; an observation that it has not yet is recorded."""
    if number <= shared:
        return number
    told = later[str(number)]
    key, place = dg.AssetKey.from_user_string(asset), told["partition"]
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[place] if place else None)
    for record in instance.fetch_materializations(wanted, _LATEST).records:
        if record.run_id == told["run"]:
            return record.storage_id
    return observed(instance, key, told["version"], place)
