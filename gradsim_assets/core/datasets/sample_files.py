"""Samples out of files: Parquet, JSON lines and Arrow. A path names one file, and its texts are taken as they stand there."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradsim_assets.core.datasets.column_files import Content, read_columns
from gradsim_assets.core.datasets.file_formats import Format, format_of, layout_of
from gradsim_assets.core.datasets.json_lines import read_json_lines
from gradsim_assets.core.errors import InputError

#: How an address begins; a Windows drive has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def read_rows(location: str, message_columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows {id, messages, tools, place} of a file; the first of `message_columns` that the file has holds the messages.

    Other columns are not looked at, whatever they hold. `place` is where a row stands ("data.jsonl, line 3").

    Raises:
        InputError: the file is missing, empty, damaged or of another format, or lacks the columns.
    """
    path = _file(location)
    found = format_of(path)
    wanted = ("id", "tools", *message_columns)
    content = _lines(path, wanted) if found is Format.JSON_LINES else read_columns(path, found, wanted)
    messages = next((column for column in message_columns if column in content.columns), None)
    if "id" not in content.columns or messages is None:
        raise InputError(_lacking(path, content.columns, message_columns))
    rows = [
        {"id": row.get("id"), "messages": row.get(messages), "tools": row.get("tools"), "place": f"{path}, {place}"}
        for place, row in content.rows
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
        raise InputError(f"{location} cannot be looked at ({error}); correct the path.") from error
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


def _lines(path: Path, wanted: Sequence[str]) -> Content:
    lines = list(read_json_lines(path, wanted))
    columns = dict.fromkeys(name for line in lines for name in line.names)
    return Content(list(columns), [(f"line {line.number}", line.values) for line in lines])
