"""Who a process is, so that nobody takes another one, or one of another machine, for it."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process by the machine, the boot and the PID namespace in which its number counts, and by when it was started.

    The start is told in ticks since boot where there are any (Linux), which no step of the clock changes.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    start: str

    def __str__(self) -> str:
        return " ".join((self.host, self.boot, self.namespace, str(self.pid), self.start))

    @classmethod
    def parse(cls, text: str) -> "ProcessIdentity | None":
        """The identity that a text is of; None for anything else."""
        parts = text.split(" ")
        if len(parts) != 5 or not parts[3].isdigit():
            return None
        host, boot, namespace, pid, start = parts
        return cls(host, boot, namespace, int(pid), start)

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The identity of a process that is there now; None where there is none of that number, or only its remains."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            start = _start_ticks(pid) or repr(process.create_time())
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return None
        return cls(socket.gethostname().replace(" ", "-"), _boot(), _namespace(), pid, start)

    @property
    def is_gone(self) -> bool | None:
        """Whether the process has ended; None where nobody can tell from here: it ran on another machine, or its number counts
        in another namespace (a container) of this one."""
        if self.host != socket.gethostname().replace(" ", "-"):
            return None
        if self.boot != _boot():
            return True
        if self.namespace != _namespace():
            return None
        return ProcessIdentity.of(self.pid) != self


def _boot() -> str:
    """What tells one boot of this machine from the next; "-" where the system has nothing of the kind."""
    with suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return "-"


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink(_PROC / "self/ns/pid").replace(" ", "")
    return "-"


def _start_ticks(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat, behind a name that may hold anything."""
    if not _PROC.is_dir():
        return None
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
