"""Files that lie beside a table because they are no table themselves: its rows name them."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from upath import UPath

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.tables.storage import Partition, Tables, computing


def put_beside(tables: Tables, key: tuple[str, ...], partition: Partition, name: str, file: Path) -> None:
    """Has a local file stand beside a partition of a table under this name, whole or not at all."""
    target = _place(tables, key, partition, name)
    with whole_file(target) as unfinished:
        try:
            os.link(file, unfinished)
        except OSError:  # another file system
            shutil.copyfile(file, unfinished)


def beside(tables: Tables, key: tuple[str, ...], partition: Partition, name: str, cache: Path) -> Path:
    """A local path of a file beside a partition of a table; one of an object store is fetched into `cache`.

    Names say what files hold, so that one that was fetched before is the same.

    Raises:
        InputError: it is not there.
    """
    source = _place(tables, key, partition, name)
    if not source.exists():
        raise InputError(
            f"{source} is missing, which table {'/'.join(key)} names; {computing(partition)} makes it again."
        )
    if isinstance(source, Path):
        return source
    local = cache / name
    if not local.exists():
        with whole_file(local) as unfinished:
            source.fs.get_file(source.path, str(unfinished))
    return local


def sweep_beside(
    tables: Tables, key: tuple[str, ...], partition: Partition, suffix: str, keep: Collection[str]
) -> None:
    """Removes files with this suffix beside a partition of a table but those to keep."""
    for path in _place(tables, key, partition, "").parent.glob(f"*{suffix}"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _place(tables: Tables, key: tuple[str, ...], partition: Partition, name: str) -> UPath:
    return tables.path(key, partition).parent / name
