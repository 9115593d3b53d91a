"""Locks between processes that share a folder: the system takes them back when their holder ends, however it ends."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LOOK_AGAIN_SECONDS = 0.1

#: What a file system says that knows no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def try_lock(path: Path) -> IO[str] | None:
    """The opened file of a lock that is this process's own until the file is closed; None while another one has it.

    The file stays when the lock is free again: one that is removed could be locked by two at once. What its holder writes
    into it is for others to read. On a file system without locks everybody has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
    return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock for the length of the block, after whoever has it now."""
    while (file := try_lock(path)) is None:
        time.sleep(_LOOK_AGAIN_SECONDS)
    with file:
        yield
