"""CSV, read by polars, every cell as text; what CSV has no form for (messages, tools) stands in its cells as JSON."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.datasets.column_files import Choose, Content
from gradsim_assets.core.datasets.file_formats import opened
from gradsim_assets.core.errors import InputError, first_line

#: Columns that hold lists.
LISTS = ("messages", "paraphrased_messages", "conversations", "tools", "history")

#: Columns that hold texts or messages.
MAY_BE_MESSAGES = ("prompt", "completion", "chosen")

_SEPARATORS = ",;\t|"


def read_csv(path: Path, lists: Collection[str], may_be: Collection[str], choose: Choose) -> Content:
    """Those columns of a file that are chosen; cells without text are null, those of the columns `lists` are JSON, and those of
    the columns `may_be` are messages where they are JSON of such, and texts otherwise.

    Raises:
        InputError: the file is no CSV or no UTF-8, a column is there twice, or a cell is no JSON; the sentence names the row.
    """
    with opened(path) as file:
        raw = file.read()
    try:
        separator = _separator(raw)
        # Without a header of its own polars renames no column that is there twice.
        frame = pl.read_csv(raw, has_header=False, separator=separator, infer_schema=False)
        columns, frame = [name or "" for name in frame.row(0)], frame[1:]
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as CSV ({first_line(error)}); save it as UTF-8 with every text in quotes, or as .jsonl."
        ) from error
    wanted = choose(columns, ())
    if twice := [name for name in wanted if columns.count(name) > 1]:
        raise InputError(f"{path} has {columns.count(twice[0])} columns {twice[0]}; keep one of them.")
    chosen = {name: frame.to_series(columns.index(name)).to_list() for name in wanted if name in columns}
    rows = []
    for number in range(frame.height):
        place = f"row {number + 1}"
        cells = {name: values[number] for name, values in chosen.items()}
        rows.append(
            (
                place,
                {
                    name: _messages(cell) if name in may_be else _cell(name, cell, lists, f"{path}, {place}")
                    for name, cell in cells.items()
                },
            )
        )
    return Content(columns, rows)


def _separator(raw: bytes) -> str:
    """What parts the names of the first line."""
    header = raw.split(b"\n", 1)[0].decode("utf-8-sig")
    return max(_SEPARATORS, key=header.count)


def _messages(cell: str | None) -> Any:
    """The messages that a cell holds as JSON; its text where it holds none."""
    if cell is None or not cell.lstrip().startswith("["):
        return cell
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    is_messages = bool(found) and all(isinstance(part, dict) and "role" in part for part in found)
    return found if is_messages else cell


def _cell(name: str, cell: str | None, lists: Collection[str], place: str) -> Any:
    if cell is None or name not in lists:
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: {name} is no JSON ({error}), as lists are not that were written by Python itself; write it by json.dumps, or "
            "the file as .jsonl."
        ) from error
