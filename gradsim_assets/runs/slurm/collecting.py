"""Looks after an array job until it has ended, and records what its tasks have made in the home's own instance."""

import time
from collections.abc import Callable

import dagster as dg

from gradsim_assets.core.errors import ServiceError
from gradsim_assets.runs.made_elsewhere import take_over
from gradsim_assets.runs.slurm.array_job import ArrayJob, Outcome, Task

#: How long a cluster may not answer, and how long results of ended tasks are waited for: file systems of clusters tell late.
_PATIENCE_SECONDS = 600.0
_LATE_SECONDS = 30.0

Tell = Callable[[Task, Outcome], None]

#: What is said of a task that left nothing.
_LOST = "the task ended without a result: killed, out of time or out of memory"


def collect(array: ArrayJob, instance: dg.DagsterInstance, tell: Tell, wait: bool, interval: float) -> list[int] | None:
    """Records what tasks have made, as they end, and closes the array job; the numbers of those that failed.

    Args:
        array: the array job.
        instance: the home's own instance.
        tell: is told what came of every task.
        wait: until all tasks have ended; otherwise None is returned while some have not.
        interval: seconds between two looks.

    Raises:
        ServiceError: the cluster does not answer for minutes.
    """
    left = list(range(len(array.tasks)))
    failed: list[int] = []

    def take() -> None:
        for number in list(left):
            if (outcome := array.outcome(number)) is not None:
                left.remove(number)
                if array.run(number).exists():
                    take_over(instance, array.run(number))
                if outcome.error:
                    failed.append(number)
                tell(array.tasks[number], outcome)

    take()
    while left and _is_queued(array, interval):
        if not wait:
            return None
        time.sleep(interval)
        take()
    deadline = time.monotonic() + _LATE_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(min(interval, 1.0))
        take()
    for number in left:
        failed.append(number)
        tell(array.tasks[number], Outcome(0, 0.0, _LOST))
    array.close(keep_logs=bool(failed))
    return failed


def _is_queued(array: ArrayJob, interval: float) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return array.is_queued()
        except ServiceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(interval)
