"""What a task of an array job does: `python -m gradsim_assets.runs.slurm.task FOLDER NUMBER`.

It works on a storage of its own and leaves its run as a file; `collecting` records it in the home's. Tables go where they
always go.
"""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.defs.stages import STAGES
from gradsim_assets.orchestration.partitions import place_of
from gradsim_assets.runs.environment import open_instance
from gradsim_assets.runs.launcher import Launcher
from gradsim_assets.runs.made_elsewhere import take_over, write_run
from gradsim_assets.runs.slurm.array_job import ArrayJob, Outcome


def main(folder: Path, number: int) -> Outcome:
    """Does one task, says what came of it, and returns that."""
    array = ArrayJob.read(folder)
    with tempfile.TemporaryDirectory(prefix="gradsim-", ignore_cleanup_errors=True) as own:
        shutil.copytree(array.storage, own, dirs_exist_ok=True)
        os.environ["DAGSTER_HOME"] = own
        try:
            outcome = _do(array, number)
        except (InputError, ServiceError) as error:
            outcome = Outcome(0, 0.0, str(error))
    array.finish(number, outcome)
    return outcome


def _do(array: ArrayJob, number: int) -> Outcome:
    """Makes what is missing or stale of a task's partition, and writes its run beside the others."""
    task = array.tasks[number]
    launcher = Launcher(open_instance(writes=True))
    for earlier, one in enumerate(array.tasks[:number]):
        if one.model == task.model and one.stage != task.stage and array.run(earlier).exists():
            take_over(launcher.instance, array.run(earlier))
    stage = next(one for one in STAGES if one.job == task.stage)
    graph = launcher.repository.asset_graph
    definition = graph.get(next(iter(stage.selection.resolve(graph)))).partitions_def
    work = launcher.work(stage, task.model, within=place_of(task.partition, definition))
    if not (assets := work.get(task.partition)):
        return Outcome(0, 0.0, None)
    done = launcher.run(stage, task.partition, assets)
    launcher.instance.add_run_tags(done.run_id, {"gradsim/slurm_task": _name(), "gradsim/host": socket.gethostname()})
    write_run(launcher.instance, done.run_id, array.shared, array.run(number))
    return Outcome(len(assets), done.seconds, done.error)


def _name() -> str:
    """The task as SLURM calls it: JOB_NUMBER."""
    return f"{os.environ.get('SLURM_ARRAY_JOB_ID', '')}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"


if __name__ == "__main__":
    found = main(Path(sys.argv[1]), int(sys.argv[2]))
    print(found.error or f"{found.assets} assets in {found.seconds:.1f} s")
    sys.exit(found.error is not None)
