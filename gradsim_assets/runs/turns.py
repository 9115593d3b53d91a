"""Partitions that several commands want to compute at the same time: each is worked on by one, while the others take others."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from gradsim_assets.core.locks import try_lock

_LOOK_AGAIN_SECONDS = 0.5


def in_turn(
    folder: Path,
    job: str,
    partitions: Iterable[str | None],
    busy: Callable[[str | None], bool],
    wait: Callable[[], None],
) -> Iterator[str | None]:
    """The partitions of a job, one after the other, each of them this process's own until the next one is asked for.

    Those that others work on come last, when these are done with them, however they ended: what is left to do of a partition
    is to be found out when it comes.

    Args:
        folder: where the commands of a home keep their locks.
        busy: whether somebody without a lock works on a partition: a run that the daemon has launched.
        wait: called once when nothing is left but what others work on.
    """
    waiting, told = list(partitions), False
    while waiting:
        turn = next(_free(folder, job, waiting, busy), None)
        if turn is None:
            if not told:
                wait()
                told = True
            time.sleep(_LOOK_AGAIN_SECONDS)
            continue
        partition, lock = turn
        waiting.remove(partition)
        with lock:
            yield partition


def _free(
    folder: Path, job: str, partitions: Iterable[str | None], busy: Callable[[str | None], bool]
) -> Iterator[tuple[str | None, IO[str]]]:
    """Partitions that nobody works on, with their locks."""
    for partition in partitions:
        if lock := try_lock(folder / _name(job, partition)):
            if busy(partition):
                lock.close()
            else:
                yield partition, lock


def _name(job: str, partition: str | None) -> str:
    """A name that every file system takes, however long the key of a model is."""
    return f"{job}-{hashlib.sha256((partition or '').encode()).hexdigest()[:16]}.lock"
