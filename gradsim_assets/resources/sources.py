"""Originals and paraphrases by configuration: the demo, a local file, or the hub."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, check_variants, parse_samples
from gradsim_assets.settings import DEMO

LIMA_HUB = "lima"
LIMA_REPO = "allenai/tulu-v2-sft-mixture"
OPENAI = "openai"

_SUFFIXES = (".parquet", ".jsonl", ".arrow")


class SampleSources(dg.ConfigurableResource):
    """Where originals and paraphrases come from, as in `[data]` of gradsim.toml."""

    originals: str
    paraphrases: str
    samples: int

    def load_originals(self) -> list[Sample]:
        """The originals, in order, the first `samples` of them (0: all).

        Raises:
            InputError: the source is missing or malformed, or a sample is unsound.
        """
        originals = self._all_originals()
        return originals[: self.samples] if self.samples else originals

    def load_paraphrases(self) -> list[Sample]:
        """The given paraphrases of the originals in force, in the order of the originals.

        Raises:
            InputError: as `load_originals`; or a variant has no original.
        """
        name = "the demo dataset" if self.paraphrases == DEMO else self.paraphrases
        variants = parse_samples(self._paraphrase_rows(), name)
        originals = self._all_originals()
        check_variants(variants, originals, name)
        by_id = {variant.id: variant for variant in variants}
        kept = [by_id[original.id] for original in self.load_originals() if original.id in by_id]
        if not kept:
            raise InputError(f"{name} holds no paraphrase of the first {self.samples} originals; raise data.samples.")
        return kept

    def _all_originals(self) -> list[Sample]:
        if self.originals == DEMO:
            from gradsim_assets.demo.data import load_originals

            return parse_samples(load_originals(), "the demo dataset")
        if self.originals == LIMA_HUB:
            return parse_samples(_lima_from_hub(), LIMA_REPO)
        return parse_samples(_read_rows(self.originals, ("messages",)), self.originals)

    def _paraphrase_rows(self) -> list[dict[str, Any]]:
        if self.paraphrases == DEMO:
            if self.originals != DEMO:
                raise InputError(
                    'data.paraphrases = "demo" fits data.originals = "demo" only; '
                    'name a file with id and messages, or set it to "openai".'
                )
            from gradsim_assets.demo.data import load_paraphrases

            return load_paraphrases()
        return _read_rows(self.paraphrases, ("paraphrased_messages", "messages"))


def _read_rows(location: str, message_columns: tuple[str, ...]) -> list[dict[str, Any]]:
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


def _lima_from_hub() -> list[dict[str, Any]]:
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
