"""`lima`: the originals, out of the embedded demo, LIMA on the hub, or a file."""

from typing import Any

import polars as pl

from gradsim_assets.core.datasets.sample_files import read_rows
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, parse_samples, sample_frame
from gradsim_assets.demo import DEMO

#: Stands for LIMA on the hub among the sources of originals.
LIMA_HUB = "lima"

LIMA_REPO = "allenai/tulu-v2-sft-mixture"


def lima(source: str, count: int = 0) -> pl.DataFrame:
    """The table `lima`; arguments and errors are those of `load_originals`."""
    return sample_frame(load_originals(source, count))


def load_originals(source: str, count: int = 0) -> list[Sample]:
    """The originals of a source ("demo", "lima" or a file) in order, the first `count` of them (0: all).

    Raises:
        InputError: the source is missing or malformed, or a sample is unsound.
    """
    originals = parse_samples(*_rows(source))
    return originals[:count] if count else originals


def _rows(source: str) -> tuple[list[dict[str, Any]], str]:
    """Rows {id, messages}, and the name by which errors call the source."""
    if source == DEMO:
        from gradsim_assets.demo.data import load_originals

        return load_originals(), "the demo dataset"
    if source == LIMA_HUB:
        return _lima_from_hub(), LIMA_REPO
    return read_rows(source, ("messages",)), source


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
