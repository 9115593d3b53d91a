"""The run launcher of one machine: Dagster's default one, which also notices runs whose process is gone.

The code server reports a run whose process died, unless it died with it: after kill -9 of everything, a crash or a power
failure the run would pass for being at work for ever, hold its place in the queue, and leave its backfill unfinished.
"""

import re

import dagster as dg
import psutil
from dagster._core.events import DagsterEventType
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

#: What runs say of their process; the last line is the one at work.
_STARTED = re.compile(r"(?:Started process for run|Executing steps .*) \(pid: (\d+)\)")


class LocalRunLauncher(DefaultRunLauncher):
    """Launches runs through the code server; run monitoring finds those whose process is gone and lets them be retried."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process that a run was last at work in is still the same one."""
        started = [
            (int(found[1]), entry.timestamp)
            for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
            if (found := _STARTED.match(entry.message))
        ]
        if not started or is_alive(*started[-1]):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process {started[-1][0]} is gone")


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Ends runs of this machine whose process is gone and returns their ids; what they held in a pool is free again.

    The daemon does so too, but commands work without one, and a killed command's run would keep the next one waiting.
    """
    launcher = instance.run_launcher
    ended: list[str] = []
    if not isinstance(launcher, LocalRunLauncher):
        return ended
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        health = launcher.check_run_worker_health(run)
        if health.status == WorkerStatus.NOT_FOUND:
            instance.report_run_failed(run, f"The run was not finished, and {health.msg}.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


def is_alive(pid: int, since: float) -> bool:
    """Whether a process that was there at a time still is: a later process may have been given its number."""
    try:
        process = psutil.Process(pid)
        # A number is given again hours later, if ever; a second covers the clock's granularity.
        return process.create_time() < since + 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
