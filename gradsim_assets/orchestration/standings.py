"""How every partition of every table stands: done, stale, failed, running or missing. Reads, and changes nothing."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import dagster as dg

from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.asset_keys import on_request
from gradsim_assets.orchestration.backfills import unfinished_backfills
from gradsim_assets.orchestration.controls import places_read
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph, StaleStatus
from gradsim_assets.orchestration.latest_records import in_chunks, latest_ids, records_of
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.planner import Above, Target, asked_for, partitions_of
from gradsim_assets.orchestration.stale_status import StatusResolver, without_collecting

DONE, STALE, FAILED, RUNNING, MISSING = "done", "stale", "failed", "running", "missing"

#: In the order in which they are told.
STATES = (DONE, STALE, FAILED, RUNNING, MISSING)

_NEVER = "never materialised"

#: How many causes are told of what is stale.
_CAUSES = 3

#: Runs that a process works on, and runs that wait for one.
_AT_WORK = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
_WAITING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)


@dataclass(frozen=True)
class Standing:
    """How one partition stands, and why it is not done; `running` whether a run works on it now."""

    table: dg.AssetKey
    partition: str | None
    place: Partition
    status: str
    why: str = ""
    running: bool = False

    @property
    def shown(self) -> str:
        """The one state that it is counted under."""
        return RUNNING if self.running else self.status


@without_collecting()
def standings(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,
    files: LostFiles | None = None,
    without: Collection[dg.AssetKey] = (),
) -> list[Standing]:
    """The standing of every partition of every table, in topological order.

    With `files`, a partition whose file is lost is missing too. `without` are tables that are not asked about. What is made
    on request alone has no standing where nobody has asked for it.
    """
    resolver = StatusResolver(instance, graph, files=files)
    attempts = _Attempts(instance)
    keys = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable and key not in without]
    return [standing for key in keys for standing in _of_table(instance, resolver, attempts, key)]


def with_what_follows(found: Sequence[Standing], graph: BaseAssetGraph) -> list[Standing]:
    """As `standings` found them, but stale, too, is what is made from something stale: its figures are of yesterday."""
    stale: dict[dg.AssetKey, list[Partition]] = {}
    told: list[Standing] = []
    known = {one.place.model for one in found if one.place.model is not None}
    for key, of_table in groupby(found, key=lambda one: one.table):
        above = Above(graph, key, stale)
        for one in of_table:
            cause = above.table_of(places_read(graph, key, one.place, known)) if one.status == DONE else None
            if cause:
                one = replace(one, status=STALE, why=f"{cause.to_user_string()} is stale")
            if one.status == STALE:
                stale.setdefault(key, []).append(one.place)
            told.append(one)
    return told


def is_at_work(instance: dg.DagsterInstance) -> bool:
    """Whether runs or backfills are on their way, as far as they themselves say."""
    unfinished = dg.RunsFilter(statuses=[*_AT_WORK, *_WAITING])
    return bool(
        instance.get_run_records(unfinished, limit=1) or instance.get_backfills(unfinished_backfills(), limit=1)
    )


def _of_table(
    instance: dg.DagsterInstance, resolver: StatusResolver, attempts: "_Attempts", key: dg.AssetKey
) -> Iterator[Standing]:
    partitioned = resolver.asset_graph.get(key).partitions_def is not None
    runs = attempts.unfulfilled(key, partitioned)
    partitions = list(partitions_of(instance, resolver.asset_graph, key))
    asked = asked_for(instance, resolver, key) if on_request(key) else set()
    for target, place in partitions:
        last = attempts.status(runs.get(target.partition_key))
        running = last in _AT_WORK
        if last == dg.DagsterRunStatus.FAILURE:
            status, why = FAILED, "its last run failed; see the run's log"
        else:
            status, why = _status_of(resolver, target)
        if on_request(key) and not running and place.model not in asked and (status, why) == (MISSING, _NEVER):
            continue
        yield Standing(key, target.partition_key, place, status, why, running)


def _status_of(resolver: StatusResolver, target: Target) -> tuple[str, str]:
    """What a partition is and why, whatever its runs did."""
    key, partition = target
    status = resolver.get_status(key, partition)
    if status == StaleStatus.MISSING:
        return MISSING, _NEVER
    if lost := resolver.why_lost(key, partition):
        return MISSING, lost
    if status == StaleStatus.FRESH:
        return DONE, ""
    causes = resolver.get_stale_causes(key, partition)[:_CAUSES]
    return STALE, "; ".join(
        f"{cause.dependency.asset_key.to_user_string() if cause.dependency else 'its code'} {cause.reason}"
        for cause in causes
    )


class _Attempts:
    """The last runs of partitions that have not brought them about. Dagster's own cache of this writes when it is read."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._statuses: dict[str, dg.DagsterRunStatus] = {}

    def unfulfilled(self, key: dg.AssetKey, partitioned: bool) -> dict[str | None, str]:
        """By partition the run that was to materialise it last and has not, or not yet."""
        found = self._of_partitions(key) if partitioned else self._of_whole(key)
        self._look_up(set(found.values()) - set(self._statuses))
        return found

    def status(self, run_id: str | None) -> dg.DagsterRunStatus | None:
        """How a run stands; None for none, and for one that was deleted."""
        return self._statuses.get(run_id) if run_id else None

    def _of_partitions(self, key: dg.AssetKey) -> dict[str | None, str]:
        planned = latest_ids(self._instance, key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        made = latest_ids(self._instance, key, dg.DagsterEventType.ASSET_MATERIALIZATION) if planned else {}
        wanted = [number for partition, number in planned.items() if number > made.get(partition, 0)]
        records = records_of(self._instance.fetch_planned_materializations, key, wanted)
        return {record.partition_key: record.run_id for record in records}

    def _of_whole(self, key: dg.AssetKey) -> dict[str | None, str]:
        planned = self._instance.fetch_planned_materializations(key, limit=1).records
        made = self._instance.fetch_materializations(key, limit=1).records
        unfulfilled = planned and not (made and made[0].storage_id > planned[0].storage_id)
        return {None: planned[0].run_id} if unfulfilled else {}

    def _look_up(self, run_ids: Iterable[str]) -> None:
        for chunk in in_chunks(sorted(run_ids)):
            wanted = dg.RunsFilter(run_ids=chunk)
            self._statuses |= {run.run_id: run.status for run in self._instance.get_runs(wanted)}
