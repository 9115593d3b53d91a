"""Whether the file behind a partition is what it says: whole, ours, and of the table and partition that it lies under."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition, Tables, check_parquet, computing, fingerprint


def read_audited(tables: Tables, key: Sequence[str], partition: Partition) -> tuple[pl.DataFrame | None, list[str]]:
    """The content of a partition and findings that name its file; None where it cannot be read."""
    path, again = tables.path(key, partition), f"{computing(partition)} computes it again."
    if not path.exists():
        return None, [f"{path} is missing although its partition was materialised; {again}"]
    try:
        provenance = check_parquet(path, partition)
        frame = tables.read(key, partition)  # every page is decoded: a footer may survive what its pages did not
    except Exception as error:  # polars raises many kinds for damaged files, some of them panics turned into errors
        said = str(error).splitlines()[0]
        return None, [said if "not a whole Parquet file" in said else f"{path} is corrupted: {said}; {again}"]
    if why := _foreign(provenance, key, partition):
        return frame, [f"{path} {why}; {again}"]
    if provenance.get("fingerprint", "") not in ("", fingerprint(frame)):
        return frame, [f"{path} is corrupted: its content is not what was written; {again}"]
    return frame, []


def why_lost(
    tables: Tables, key: Sequence[str], partition: Partition, size: int | None, recorded: tuple[int | None, str | None]
) -> str | None:
    """Why the file of a materialised partition is as good as missing, without reading its rows; None where it is not.

    `size` is what a listing says of it (None: it is not there), `recorded` the bytes and the fingerprint that were recorded
    when it was written, as far as they were. Of an object store the listing alone is looked at.
    """
    path, again = tables.path(key, partition), f"{computing(partition)} computes it again."
    bytes_then, content_then = recorded
    if size is None:
        return f"{path} is missing; {again}"
    if bytes_then is not None and size != bytes_then:
        return f"{path} is not the file that was written ({size} bytes in place of {bytes_then}); {again}"
    if not isinstance(path, Path):
        return None
    try:
        provenance = check_parquet(path, partition)
    except InputError as error:
        return str(error)
    if why := _foreign(provenance, key, partition):
        return f"{path} {why}; {again}"
    if content_then is not None and provenance.get("fingerprint") != content_then:
        return f"{path} holds something else than what was written; {again}"
    return None


def _foreign(provenance: Mapping[str, Any], key: Sequence[str], partition: Partition) -> str | None:
    """What is wrong with a file that was written elsewhere, by what it says of itself; None where it is at home."""
    if not provenance:
        return "is foreign: gradsim did not write it"
    table, place = provenance.get("table"), provenance.get("partition")
    if (table, place) != ("/".join(key), str(partition)):
        return f"belongs elsewhere: it was written as {table} {place}"
    return None
