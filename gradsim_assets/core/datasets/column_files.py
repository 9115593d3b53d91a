"""Files of columns, Parquet and Arrow, read by Arrow's own library: it reads some columns without looking at the others."""

import mmap
from collections.abc import Callable, Collection, Mapping, Sequence
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


#: Which columns are wanted of those that a file has; of some of them it says beforehand that they hold lists or bytes.
Choose = Callable[[Sequence[str], Collection[str]], Sequence[str]]


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
    schema, table = read[found](path, choose)
    columns, wanted = list(schema.names), _wanted(schema, choose)
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


def _wanted(schema: "pa.Schema", choose: Choose) -> Sequence[str]:
    return choose(list(schema.names), not_plain(schema))


def not_plain(schema: "pa.Schema") -> set[str]:
    """The columns that hold lists or bytes."""
    return {part.name for part in schema if not _is_plain(part.type)}


def _is_plain(dtype: "pa.DataType") -> bool:
    """Whether the values of a column are texts, numbers, truth values or times, or objects of such."""
    import pyarrow.types as kinds

    if kinds.is_struct(dtype):
        return all(_is_plain(part.type) for part in dtype)
    if kinds.is_dictionary(dtype):
        return _is_plain(dtype.value_type)
    if kinds.is_timestamp(dtype) and dtype.tz and not _is_zone(dtype.tz):
        return False
    texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
    others = (kinds.is_boolean, kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_temporal, kinds.is_null)
    return any(holds(dtype) for holds in (*texts, *others))


def _is_zone(name: str) -> bool:
    import pyarrow as pa

    try:
        pa.lib.string_to_tzinfo(name)
    except (pa.ArrowException, KeyError, ValueError):  # zoneinfo's error for a zone that nobody knows is a KeyError
        return False
    return True


def _parquet(path: Path, choose: Choose) -> tuple["pa.Schema", "pa.Table"]:
    import pyarrow.parquet as pq

    with path.open("rb") as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        return schema, file.read([name for name in _wanted(schema, choose) if name in schema.names])


def _arrow_file(path: Path, choose: Choose) -> tuple["pa.Schema", "pa.Table"]:
    import pyarrow as pa

    with path.open("rb") as opened:
        schema = pa.ipc.open_file(opened).schema
        chosen = pa.ipc.IpcReadOptions(included_fields=_places(schema.names, _wanted(schema, choose)))
        return schema, pa.ipc.open_file(opened, options=chosen).read_all()


def _arrow_stream(path: Path, choose: Choose) -> tuple["pa.Schema", "pa.Table"]:
    import pyarrow as pa

    with path.open("rb") as opened:
        schema = pa.ipc.open_stream(opened).schema
        opened.seek(0)
        chosen = pa.ipc.IpcReadOptions(included_fields=_places(schema.names, _wanted(schema, choose)))
        table = pa.ipc.open_stream(opened, options=chosen).read_all()
        end = opened.tell()
        opened.seek(-len(_END_OF_STREAM), 2)
        # Without the mark of its end it may be cut off between two batches, and what follows the mark is never read.
        if opened.read() != _END_OF_STREAM or opened.tell() != end:
            raise InputError(
                f"{path} does not end where its Arrow stream ends: it is cut off, or several were joined; write it anew."
            )
    return schema, table


def _places(columns: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where wanted columns stand; the first column where there are none, since Arrow takes no choice for all of them."""
    return [place for place, name in enumerate(columns) if name in wanted] or [0]
