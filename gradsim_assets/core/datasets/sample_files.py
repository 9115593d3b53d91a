"""Samples out of files: Parquet, JSON lines and Arrow. A path names one file, and its texts are taken as they stand there."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from polars.exceptions import PanicException

from gradsim_assets.core.datasets.file_formats import Format, format_of, layout_of
from gradsim_assets.core.datasets.json_lines import read_json_lines
from gradsim_assets.core.errors import InputError, may_heal

#: How an address begins; a Windows drive has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

#: How an Arrow stream ends. One that ends otherwise may be cut off between two of its batches.
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


class _Content(NamedTuple):
    """What a file holds: all of its columns, and its rows with those that were asked for, each with its place in the file."""

    columns: Sequence[str]
    rows: Iterable[tuple[str, Mapping[str, Any]]]


def read_rows(location: str, message_columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows {id, messages, place} of a file; the first of `message_columns` that the file has holds the messages.

    Other columns are not looked at, whatever they hold. `place` is where a row stands ("data.jsonl, line 3").

    Raises:
        InputError: the file is missing, empty, damaged or of another format, or lacks the columns.
    """
    path = _file(location)
    content = _READERS[format_of(path)](path, ("id", *message_columns))
    found = next((column for column in message_columns if column in content.columns), None)
    if "id" not in content.columns or found is None:
        raise InputError(_lacking(path, content.columns, message_columns))
    rows = [
        {"id": row.get("id"), "messages": row.get(found), "place": f"{path}, {place}"} for place, row in content.rows
    ]
    if not rows:
        raise InputError(f"{path} holds no samples; name another file.")
    return rows


def _file(location: str) -> Path:
    """The path of a file that is there; raises InputError otherwise."""
    if _ADDRESS.match(location):
        raise InputError(f"{location} is an address and no path; download the file and name where it lies.")
    try:
        path = Path(location).expanduser()
        if path.is_dir():
            raise InputError(
                f"{path} is a folder; name one file of samples (of a folder of `datasets`, write one by "
                f'datasets.load_from_disk("{path}").to_parquet("samples.parquet")).'
            )
        if not path.exists():
            raise InputError(
                f'{path} does not exist; data.originals and data.paraphrases take "demo" or a .parquet, .jsonl or .arrow '
                "file. Relative paths begin at the folder of the configuration file."
            )
        if not path.is_file():
            raise InputError(f"{path} is no regular file; name one.")
        if not path.stat().st_size:
            raise InputError(f"{path} is empty; write it anew or name another file.")
    except (OSError, RuntimeError) as error:  # a name that is too long; a home that nobody has
        raise InputError(f"{location} cannot be looked at ({_reason(error)}); correct the path.") from error
    return path


def _lacking(path: Path, columns: Sequence[str], message_columns: Sequence[str]) -> str:
    """The sentence for a file without the columns of samples; names the layout of another tool where it has one."""
    wanted = " or ".join(message_columns)
    has = f"{path} needs the columns id and {wanted}; it has {', '.join(columns) or 'none'}"
    if layout := layout_of(columns):
        return (
            f"{has}, which is {layout} and not read yet. Write every row as an id and messages: "
            '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}].'
        )
    if set(columns) & set(message_columns):
        return f"{has}. Give every row an id: a text or whole number that no other row has."
    return f"{has}. Rename its columns or write it anew."


def _lines(path: Path, wanted: Sequence[str]) -> _Content:
    lines = read_json_lines(path, wanted)
    columns = dict.fromkeys(name for line in lines for name in line.names)
    return _Content(list(columns), ((f"line {line.number}", line.values) for line in lines))


def _frame_reader(schema: Callable[[Path], Sequence[str]], read: Callable[[Path, list[str]], pl.DataFrame]) -> Any:
    """A reader of a format of columns, from how its columns are told and how some of them are read."""

    def content(path: Path, wanted: Sequence[str]) -> _Content:
        columns = schema(path)
        frame = read(path, [name for name in wanted if name in columns])
        return _Content(columns, ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True), 1)))

    def reader(path: Path, wanted: Sequence[str]) -> _Content:
        try:
            return content(path, wanted)
        except (Exception, PanicException) as error:  # polars raises many kinds for damaged files
            if may_heal(error):
                raise
            raise InputError(
                f"{path} cannot be read as {format_of(path).value} ({_reason(error)}); it is cut off or damaged: write or "
                "copy it anew."
            ) from error

    return reader
