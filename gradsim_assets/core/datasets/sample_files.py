"""Samples out of files: Parquet, JSONL and Arrow, and LIMA from the hub."""

from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError

LIMA_REPO = "allenai/tulu-v2-sft-mixture"

_SUFFIXES = (".parquet", ".jsonl", ".arrow")


def read_rows(location: str, message_columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows {id, messages} of a file; the first of `message_columns` that the file has holds the messages."""
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


def lima_from_hub() -> list[dict[str, Any]]:
    """The single-turn samples of LIMA out of the Tulu-v2 mixture."""
    from datasets import load_dataset

    try:
        mixture = load_dataset(LIMA_REPO, split="train")
    except Exception as error:  # the hub client has no common base for its errors
        raise InputError(
            f"{LIMA_REPO} could not be loaded from the hub ({str(error).splitlines()[0]}); check the network and HF_TOKEN, "
            "or name a local file as data.originals."
        ) from error
    mixture = mixture.filter(
        lambda names, messages: [name == "lima" and len(m) == 2 for name, m in zip(names, messages, strict=True)],
        input_columns=["dataset", "messages"],
        batched=True,
    )
    return [{"id": row["id"], "messages": row["messages"]} for row in mixture]
