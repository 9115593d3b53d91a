"""The run launcher of one machine: Dagster's default one, which also notices runs whose process is gone.

The code server reports a run whose process died, unless it died with it: after kill -9 of everything, a crash or a power
failure the run would pass for being at work for ever, hold its place in the queue, and leave its backfill unfinished.
"""

import re
import time

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    CheckRunHealthResult,
    DagsterEventType,
    DefaultRunLauncher,
    LaunchRunContext,
    WorkerStatus,
    instance_of,
)
from gradsim_assets.runs.process_identity import ProcessIdentity

#: Run tag that says which process works on a run (`ProcessIdentity`).
PROCESS_TAG = "gradsim/process"

#: What a run says of its process when that begins, and how long it is waited for.
_STARTED = re.compile(r"Started process for run \(pid: (\d+)\)")
_PATIENCE_SECONDS = 10.0


class LocalRunLauncher(DefaultRunLauncher):
    """Launches runs through the code server; run monitoring finds those whose process is gone and lets them be retried."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launches a run and writes down which process works on it: the code server starts that beside this one."""
        super().launch_run(context)
        run_id = context.dagster_run.run_id
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if (pid := self._pid(run_id)) is not None:
                if process := ProcessIdentity.of(pid):  # else it has ended already, and says so itself
                    instance_of(self).add_run_tags(run_id, {PROCESS_TAG: str(process)})
                return
            time.sleep(0.05)

    def _pid(self, run_id: str) -> int | None:
        events = instance_of(self).all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
        return next((int(found[1]) for entry in events if (found := _STARTED.match(entry.message))), None)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process that works on a run has ended, as far as that can be told from here."""
        process = ProcessIdentity.parse(run.tags.get(PROCESS_TAG, ""))
        if process is None or not process.is_gone:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process {process.pid} is gone")


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Ends runs of this machine whose process is gone and returns their ids; what they held in a pool is free again.

    The daemon does so too, but commands work without one, and a killed command's run would keep the next one waiting. Runs of
    other machines, and of containers that share this home, are left to those who can see their processes.
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
