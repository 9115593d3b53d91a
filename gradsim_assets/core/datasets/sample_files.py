"""Samples out of files: Parquet, JSONL and Arrow."""

from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError

_SUFFIXES = (".parquet", ".jsonl", ".arrow")


def read_rows(location: str, message_columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows {id, messages} of a file; the first of `message_columns` that the file has holds the messages.

    Raises:
        InputError: the file is missing, damaged or of no known kind, or lacks the columns.
    """
    frame = _read_file(Path(location).expanduser())
    found = [column for column in message_columns if column in frame.columns]
    if "id" not in frame.columns or not found:
        wanted = " or ".join(message_columns)
        raise InputError(
            f"{location} needs the columns id and {wanted}; it has {', '.join(frame.columns) or 'none'}. "
            "Rename its columns or write it anew."
        )
    messages = frame[found[0]].to_list()
    if any(not _is_messages(value) for value in messages):
        raise InputError(f"{location}: column {found[0]} must hold lists of {{role, content}}; convert it.")
    return [{"id": key, "messages": value} for key, value in zip(frame["id"].to_list(), messages, strict=True)]


def _is_messages(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    )


def _read_file(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(
            f'{path} does not exist; data.originals and data.paraphrases take "demo" or a .parquet, .jsonl or .arrow file.'
        )
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path} is of no known kind; use a .parquet, .jsonl or .arrow file.")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_ndjson(path) if path.suffix == ".jsonl" else _read_arrow(path)
    except Exception as error:  # polars raises many kinds for damaged files
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}.") from error


def _read_arrow(path: Path) -> pl.DataFrame:
    """An Arrow file, or the Arrow stream that `datasets` keeps in its folders."""
    magic = b"ARROW1"
    with path.open("rb") as file:
        is_file = file.read(len(magic)) == magic
    return pl.read_ipc(path) if is_file else pl.read_ipc_stream(path)
