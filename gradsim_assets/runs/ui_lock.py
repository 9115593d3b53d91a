"""One `gradsim ui` at a time on a Dagster home: two daemons would launch everything twice."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import click
import psutil

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.locks import try_lock
from gradsim_assets.runs.process_identity import ProcessIdentity

#: How often whoever serves says so, and how long nothing is heard of one that has died.
BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 3 * BEAT_SECONDS

_PATIENCE_SECONDS = 20.0

#: Bytes of a notice: it is written at once over the one before, so that nobody reads half of it.
_SIZE = 4096


@dataclass
class Notice:
    """What the file of the lock says of its holder: who serves, where, by which processes, and a number that rises meanwhile."""

    address: str
    process: str
    services: list[str] = field(default_factory=list)
    beat: int = 0


class UiLock:
    """The right to serve a home; the system takes it back when its holder ends, and the file tells others who has it."""

    def __init__(self, file: IO[str], address: str) -> None:
        self._file = file
        self._notice = Notice(address, str(ProcessIdentity.of(os.getpid())))
        self._write(json.dumps(asdict(self._notice)))

    def beat(self, services: Sequence[int] | None = None) -> None:
        """Says that this process still serves, by the processes of these numbers; None for the same as before."""
        if services is not None:
            self._notice.services = [str(found) for pid in services if (found := ProcessIdentity.of(pid))]
        self._notice.beat += 1
        self._write(json.dumps(asdict(self._notice)))

    def release(self) -> None:
        """Says goodbye."""
        self._write("")
        self._file.close()

    def _write(self, text: str) -> None:
        os.pwrite(self._file.fileno(), text.encode().ljust(_SIZE), 0)


@contextmanager
def only_ui(folder: Path, address: str) -> Iterator[UiLock]:
    """Holds the right to serve the Dagster home `folder` at an address for the length of the block.

    What a killed holder has left behind does not count, and services that outlived it are ended.

    Raises:
        InputError: another process serves the home.
    """
    path = folder / "ui.lock"
    file = try_lock(path)
    left = _read(path)
    if file is None:
        raise _taken(left)
    if left is not None:
        # A lock says nothing where a network file system keeps it to each machine: whoever is alive there is heard of.
        holder = ProcessIdentity.parse(left.process)
        if holder is not None and holder.is_gone is not True and _is_heard_of(path, left):
            file.close()
            raise _taken(left)
        _end_services(left)
    lock = UiLock(file, address)
    try:
        yield lock
    finally:
        lock.release()


def _taken(notice: Notice | None) -> InputError:
    holder = ProcessIdentity.parse(notice.process) if notice else None
    if notice is None or holder is None:
        return InputError("another `gradsim ui` serves this home; stop it first, or open what it serves.")
    if holder.is_gone is None:
        where, stop = f"process {holder.pid} on {holder.host}", "with Ctrl-C there"
    else:
        where, stop = f"process {holder.pid}", f"with Ctrl-C where it runs, or `kill {holder.pid}`"
    return InputError(f"{notice.address} serves this home already ({where}); open it there, or stop it {stop} first.")


def _read(path: Path) -> Notice | None:
    """What the last holder has said; None where it said goodbye."""
    try:
        return Notice(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_heard_of(path: Path, before: Notice) -> bool:
    """Whether somebody writes the notice anew while it is looked at."""
    deadline = time.monotonic() + _SILENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 4)
        if _read(path) not in (before, None):
            return True
    return False


def _end_services(left: Notice) -> None:
    """Ends what a killed holder had started on this machine; the first of them ends the others in order."""
    alive = [one for one in map(ProcessIdentity.parse, left.services) if one is not None and one.is_gone is False]
    if alive:
        click.echo("gradsim: ending the services that a killed `gradsim ui` has left behind.", err=True)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(one.pid)
            if one.is_gone is False:
                process.send_signal(signal.SIGINT)
                _, stubborn = psutil.wait_procs([process], _PATIENCE_SECONDS)
                for still in stubborn:
                    still.kill()
