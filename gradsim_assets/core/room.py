"""Disks that are full, told in one sentence that names the folder and the mend."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import gradsim_home

#: What a system says of a full disk, a used-up quota, and a file that may grow no further.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: SQLite's words when it cannot write beside a database: on a full disk, or a broken one.
_IO_ERROR = "disk I/O error"

#: Less is as good as nothing: SQLite wants 32 KiB beside every database.
_NOTHING_BYTES = 2**20

#: The same as polars tells it, whose errors carry no number, and SQLite.
_TOLD = re.compile(rf"\(os error ({'|'.join(map(str, _FULL))})\)|database or disk is full")


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Makes what fails in the block because there is no room left in a folder an InputError."""
    try:
        yield
    except Exception as error:
        if sentence := lacks_room(error, folder):
            raise InputError(sentence) from error
        raise


def full_disk(error: BaseException) -> str | None:
    """What to say of an error that a full disk has led to, wherever that was; None for any other."""
    home = gradsim_home().folder
    return lacks_room(error, home if _is_full(home) else None)


def lacks_room(error: BaseException, folder: Path | None) -> str | None:
    """What to say of an error that a full disk has led to, in one sentence; None for any other.

    `folder` is where it was written to; None where nobody knows but, perhaps, the error itself.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, InputError):
        if _says_so(seen) or (_IO_ERROR in str(seen) and folder is not None and _is_full(folder)):
            return (
                f"{folder or _place(seen)} has no room left ({_why(seen)}); free some there, or put GRADSIM_HOME (the tables "
                "alone: GRADSIM_TABLES) on a larger disk. The same command then goes on where it stopped."
            )
        seen = seen.__cause__ or seen.__context__
    return None


def _place(error: BaseException) -> str:
    named = isinstance(error, OSError) and isinstance(error.filename, str)
    return str(Path(error.filename).parent) if named else "the disk that was written to"  # type: ignore[attr-defined]


def _says_so(error: BaseException) -> bool:
    return bool((isinstance(error, OSError) and error.errno in _FULL) or _TOLD.search(str(error)))


def _is_full(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(there).free < _NOTHING_BYTES


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    told = _TOLD.search(str(error))
    return os.strerror(int(told[1])) if told and told[1] else "the database says so"
