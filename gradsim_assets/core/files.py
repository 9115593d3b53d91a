"""Files and folders that are there whole or not at all, whenever the process that writes them is killed."""

import glob
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gradsim_assets.core.room import room_in

if TYPE_CHECKING:  # local files need no more than the standard library
    from upath import UPath

#: How long after its last write something unfinished counts as left behind by a process that was killed.
_ABANDONED_SECONDS = 3600.0

#: How often a folder is removed that somebody still writes into.
_REMOVALS = 40


@contextmanager
def whole_file(target: "Path | UPath") -> Iterator[Path]:
    """A path to write to; what is there when the block ends becomes `target`, and what a failed block wrote is removed.

    Readers find the old file or the new one. A local file is written beside the target, since renames do not cross file
    systems, and has reached the disk when it takes its name. A file of an object store is put there in one request.
    """
    if isinstance(target, Path):
        with _beside(target) as unfinished:
            yield unfinished
            _sync(unfinished)
            os.replace(unfinished, target)
    else:
        with tempfile.TemporaryDirectory() as folder:
            unfinished = Path(folder, target.name)
            with room_in(Path(folder)):
                yield unfinished
            target.fs.put_file(str(unfinished), target.path)


def write_whole(target: "Path | UPath", content: str | bytes) -> None:
    """Writes a file of this content (text as UTF-8) as `whole_file` does."""
    with whole_file(target) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def create_whole(target: Path, content: str) -> bool:
    """Writes a local file as `write_whole` does unless there is one of that name, and says whether it did."""
    with _beside(target) as unfinished:
        unfinished.write_bytes(content.encode())
        _sync(unfinished)
        try:
            os.link(unfinished, target)  # unlike a rename, never over another's file
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if target.exists():
                return False
            os.rename(unfinished, target)
    return True


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill, which becomes the local folder `target` when the block ends and is removed where it fails.

    With `replace` it takes the place of a folder that is there. Otherwise the first to finish wins and the others' work is
    dropped, for folders whose name says what they hold.
    """
    with _beside(target) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.rglob("*"):
            if file.is_file():
                _sync(file)
        if replace and target.exists():
            _exchange(unfinished, target)
            return
        try:
            os.rename(unfinished, target)
        except OSError:  # a folder that is not empty keeps its name
            if replace or not target.is_dir():
                raise


def _exchange(unfinished: Path, target: Path) -> None:
    """Renames the old folder away and the new one into its place; the old one comes back where that fails."""
    with _beside(target) as old:
        os.rename(target, old)
        try:
            os.rename(unfinished, target)
        except OSError:
            os.rename(old, target)
            raise


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A free name beside the target; whatever bears it when the block ends is removed. InputError where there is no room."""
    with room_in(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        unfinished = target.with_name(f".{target.name}-{uuid.uuid4().hex}.part")
        try:
            yield unfinished
        finally:
            _remove(unfinished)


def _sweep(target: Path) -> None:
    """Removes what killed writers of the target left behind; one that is at work has written lately."""
    for part in target.parent.glob(f".{glob.escape(target.name)}-*.part"):
        with suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - _last_write(part) > _ABANDONED_SECONDS:
                _remove(part)


def _last_write(path: Path) -> float:
    """When a file, or anything in a folder, was written last, in seconds since 1970."""
    return max(one.stat().st_mtime for one in (path, *path.rglob("*")))


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for _ in range(_REMOVALS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            break
        time.sleep(0.05)  # a writer that has failed (polars, say) may have a thread left that makes one more file


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
