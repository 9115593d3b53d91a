"""What other processes of this instance are at work on now."""

from collections.abc import Collection, Set

import dagster as dg

from gradsim_assets.runs.local_run_launcher import PROCESS_TAG
from gradsim_assets.runs.process_identity import ProcessIdentity

#: Run tags of what a command launches in its own process.
COMMAND_TAGS = {"gradsim/launched_by": "command line"}

_STARTED = (dg.DagsterRunStatus.STARTED,)


def is_worked_on(instance: dg.DagsterInstance, job: str, partition: str | None, assets: Set[dg.AssetKey]) -> bool:
    """Whether a run whose process is alive computes some of these assets of a partition."""
    tags = {"dagster/partition": partition} if partition else {}
    for run in instance.get_runs(dg.RunsFilter(statuses=_STARTED, tags=tags)):
        concerned = bool(run.asset_selection & assets) if run.asset_selection else run.job_name == job
        if concerned and _is_alive(run):
            return True
    return False


def are_taken(instance: dg.DagsterInstance, pools: Collection[str]) -> bool:
    """Whether runs of other commands hold all places of a pool.

    A step that waits for its place asks Dagster's storage all the time, and keeps whoever has the place from working. The
    daemon's runs are waited for in the pool all the same: there everybody has a turn.
    """
    return any(_is_taken(instance, pool) for pool in pools)


def _is_taken(instance: dg.DagsterInstance, pool: str) -> bool:
    info = instance.event_log_storage.get_concurrency_info(pool)
    if not 0 < info.slot_count <= info.active_slot_count:
        return False
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(info.active_run_ids), tags=COMMAND_TAGS))
    return any(_is_alive(run) for run in runs)


def _is_alive(run: dg.DagsterRun) -> bool:
    process = ProcessIdentity.parse(run.tags.get(PROCESS_TAG, ""))
    return process is not None and process.is_gone is False
