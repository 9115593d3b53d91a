"""The environment that Dagster processes of ours run in, and the instance that they share."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.home import Home, gradsim_home
from gradsim_assets.core.locks import locked
from gradsim_assets.orchestration.dagster_internals import DagsterHomeNotSetError
from gradsim_assets.runs import instance_file

MODULE = "gradsim_assets.definitions"

#: Dagster's databases that tell what was computed, under its home; the logs of single runs are left out.
_DATABASES = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")

#: How often a database is copied that somebody writes into meanwhile.
_COPIES = 20


def open_instance(writes: bool) -> dg.DagsterInstance:
    """The instance that the UI uses; for what only reads, a copy of it where the home cannot be written.

    Raises:
        InputError: DAGSTER_HOME cannot be used; a home that is to be written cannot be.
    """
    home = gradsim_home()
    if not writes and not _is_named(home) and not _is_writable(home):
        return _copied_instance(home)
    prepare_environment()
    try:
        if _is_named(home):
            return dg.DagsterInstance.get()
        with locked(home.locks / "instance.lock"):  # two processes that create one database are in each other's way
            return dg.DagsterInstance.get()
    except (dg.DagsterInvariantViolationError, DagsterHomeNotSetError) as error:
        raise InputError(f"Dagster's home cannot be used ({first_line(error)}); correct DAGSTER_HOME.") from error


def prepare_environment() -> Path:
    """Makes GRADSIM_HOME absolute and DAGSTER_HOME a folder in it with our dagster.yaml; both for child processes too.

    Returns the Dagster home. A DAGSTER_HOME that the user set is left alone.

    Raises:
        InputError: the home cannot be written.
    """
    home = gradsim_home()
    os.environ["GRADSIM_HOME"] = str(home.folder)
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    # Otherwise a backfill fails for good when the daemon looks at it while the code server is gone.
    os.environ.setdefault("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR", "yes")
    if _is_named(home):
        return Path(os.environ["DAGSTER_HOME"])
    if not _is_writable(home):
        raise _unwritable(home, "no right to write, or mounted read-only")
    try:
        lacking = instance_file.provide(home.dagster)
    except OSError as error:
        raise _unwritable(home, str(error.strerror)) from error
    if lacking:
        print(f"! {lacking}", file=sys.stderr)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    return home.dagster


def _unwritable(home: Home, why: str) -> InputError:
    return InputError(
        f"{home.folder} cannot be written ({why}); set GRADSIM_HOME to a folder of yours. What only reads works on it."
    )


def _is_named(home: Home) -> bool:
    """Whether a user put Dagster's home elsewhere."""
    return os.environ.get("DAGSTER_HOME", "") not in ("", str(home.dagster))


def _is_writable(home: Home) -> bool:
    """Whether this process may write a home and what Dagster keeps in it, or make it."""
    first = next(folder for folder in (home.dagster, *home.dagster.parents) if folder.exists())
    databases = (home.dagster / name for name in _DATABASES)
    places = (home.folder, first, *(place for file in databases for place in (file, file.parent)))
    return all(os.access(place, os.W_OK) for place in places if place.exists())


def _copied_instance(home: Home) -> dg.DagsterInstance:
    """An instance for this process alone; SQLite does not even read a database beside which it cannot write."""
    folder = Path(tempfile.mkdtemp(prefix="gradsim-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy_storage(home, folder)
    return dg.DagsterInstance.from_config(str(folder))


def copy_storage(home: Home, folder: Path) -> None:
    """Copies what a home's own instance is made of, as it stands at one moment, but for the logs of single runs, into a folder.

    Raises:
        InputError: somebody writes into it all the time.
    """
    there = home.dagster / instance_file.NAME
    shutil.copyfile(there if there.exists() else instance_file.shipped(), folder / instance_file.NAME)
    for name in _DATABASES:
        if (home.dagster / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_database(home.dagster / name, folder / name)


def _copy_database(source: Path, target: Path) -> None:
    """Copies a database with its log of latest writes, as they stand at one moment.

    Raises:
        InputError: somebody writes into it all the time.
    """
    for _ in range(_COPIES):
        before = _state(source)
        for file in _files(source):
            copy = target.with_name(file.name)
            copy.unlink(missing_ok=True)
            if file.exists():
                shutil.copyfile(file, copy)
        if _state(source) == before:
            return
    raise InputError(f"{source} cannot be read: somebody writes into it all the time; try again later.")


def _files(database: Path) -> Iterator[Path]:
    yield database
    yield database.with_name(f"{database.name}-wal")


def _state(database: Path) -> list[tuple[int, int]]:
    found = (file.stat() for file in _files(database) if file.exists())
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]
