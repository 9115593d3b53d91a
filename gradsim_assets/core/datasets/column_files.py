"""Files of columns, Parquet and Arrow, read by Arrow's own library: it reads some columns without looking at the others."""

import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradsim_assets.core.datasets.file_formats import Format
from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.healing import may_heal

if TYPE_CHECKING:
    import pyarrow as pa

#: How a file begins, and how it ends behind its footer and the footer's length.
_MAGIC = {Format.PARQUET: b"PAR1", Format.ARROW_FILE: b"ARROW1"}

#: How an Arrow stream ends.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class Content(NamedTuple):
    """What a file holds: all of its columns, and its rows with those that were asked for, each with its place in the file."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Mapping[str, Any]]]


#: Which columns are wanted of those that a file has.
Choose = Callable[[Sequence[str]], Sequence[str]]


def read_columns(path: Path, found: Format, choose: Choose) -> Content:
    """Those of the columns of a Parquet or Arrow file that are chosen.

    Raises:
        InputError: the file is damaged, was cut off or joined, or has a column twice.
    """
    try:
        return _content(path, found, choose)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path} asks for more memory than there is ({error}); it is damaged, or too large for this machine."
        ) from error
    except Exception as error:  # Arrow raises many kinds for damaged files
        if may_heal(error):
            raise
        raise InputError(
            f"{path} cannot be read as {found.value} ({first_line(error)}); it is cut off or damaged: write or copy it anew."
        ) from error


def _content(path: Path, found: Format, choose: Choose) -> Content:
    if found in _MAGIC:
        _check_single(path, found)
    read = {Format.PARQUET: _parquet, Format.ARROW_FILE: _arrow_file, Format.ARROW_STREAM: _arrow_stream}
    columns, table = read[found](path, choose)
    wanted = choose(columns)
    if twice := [name for name in wanted if columns.count(name) > 1]:
        raise InputError(f"{path} has {columns.count(twice[0])} columns {twice[0]}; keep one of them.")
    chosen = table.select([name for name in wanted if name in columns])
    chosen.validate(full=True)  # texts that are no UTF-8, lists that end before they begin
    rows = chosen.to_pylist(maps_as_pydicts="strict")
    return Content(columns, [(f"row {number}", row) for number, row in enumerate(rows, 1)])


def _check_single(path: Path, found: Format) -> None:
    """Raises InputError for several files in one: the last one's footer would be read with the first one's data."""
    magic = _MAGIC[found]
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        end = raw.find(magic * 2)
        while end >= 0:
            if _is_whole(raw[: end + len(magic)], found):  # and no text that holds these letters
                raise InputError(f"{path} is several files that were joined; write all rows anew, or name one file.")
            end = raw.find(magic * 2, end + 1)


def _is_whole(raw: bytes, found: Format) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        (pq.read_metadata if found is Format.PARQUET else pa.ipc.open_file)(pa.BufferReader(raw))
    except (pa.ArrowException, OSError):
        return False
    return True


def _parquet(path: Path, choose: Choose) -> tuple[list[str], "pa.Table"]:
    import pyarrow.parquet as pq

    with path.open("rb") as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        columns = list(file.schema_arrow.names)
        return columns, file.read([name for name in choose(columns) if name in columns])


def _arrow_file(path: Path, choose: Choose) -> tuple[list[str], "pa.Table"]:
    import pyarrow as pa

    with path.open("rb") as opened:
        columns = list(pa.ipc.open_file(opened).schema.names)
        chosen = pa.ipc.IpcReadOptions(included_fields=_places(columns, choose(columns)))
        return columns, pa.ipc.open_file(opened, options=chosen).read_all()


def _arrow_stream(path: Path, choose: Choose) -> tuple[list[str], "pa.Table"]:
    import pyarrow as pa

    with path.open("rb") as opened:
        columns = list(pa.ipc.open_stream(opened).schema.names)
        opened.seek(0)
        chosen = pa.ipc.IpcReadOptions(included_fields=_places(columns, choose(columns)))
        table = pa.ipc.open_stream(opened, options=chosen).read_all()
        end = opened.tell()
        opened.seek(-len(_END_OF_STREAM), 2)
        # Without the mark of its end it may be cut off between two batches, and what follows the mark is never read.
        if opened.read() != _END_OF_STREAM or opened.tell() != end:
            raise InputError(
                f"{path} does not end where its Arrow stream ends: it is cut off, or several were joined; write it anew."
            )
    return columns, table


def _places(columns: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where wanted columns stand; the first column where there are none, since Arrow takes no choice for all of them."""
    return [place for place, name in enumerate(columns) if name in wanted] or [0]
