"""`lima`: the originals, out of LIMA or another dataset of the hub, a file, or a folder."""

from typing import NamedTuple

import polars as pl

from gradsim_assets.core.datasets.hub_dataset import hub_dataset, load_hub
from gradsim_assets.core.datasets.sample_columns import sample_columns
from gradsim_assets.core.datasets.sample_files import Rows, Source, read_rows
from gradsim_assets.core.samples import Sample, parse_samples

#: Stands for LIMA on the hub among the sources of originals.
LIMA_HUB = "lima"

LIMA_REPO = "allenai/tulu-v2-sft-mixture"


class Originals(NamedTuple):
    """Originals in order, their other columns (the table `sample_columns`), and sentences on how they were read."""

    samples: list[Sample]
    columns: pl.DataFrame
    notes: list[str]


def load_originals(source: Source | str, count: int = 0) -> list[Sample]:
    """The originals of a source ("lima", a file, a folder of `datasets` or name:split) in order, the first `count` (0: all).

    Raises:
        InputError: the source is missing or malformed, or a sample is unsound; the sentence names file and line.
        ServiceError: the hub does not answer.
    """
    return read_originals(source, count).samples


def read_originals(source: Source | str, count: int = 0) -> Originals:
    """As `load_originals`, with what else the source has of them."""
    source = Source(source) if isinstance(source, str) else source
    found = _lima_from_hub() if source.location == LIMA_HUB else read_rows(source)
    samples = parse_samples(found.rows, LIMA_REPO if source.location == LIMA_HUB else source.location)
    samples = samples[:count] if count else samples
    others = [row["others"] for row in found.rows[: len(samples)]]
    columns, notes = sample_columns([sample.id for sample in samples], others, found.nested)
    return Originals(samples, columns, [*found.notes, *notes])


def hub_repo(source: Source | str) -> str | None:
    """The dataset of the hub that originals come from; None where they lie on this machine."""
    source = Source(source) if isinstance(source, str) else source
    if source.location == LIMA_HUB:
        return LIMA_REPO
    found = hub_dataset(source.location)
    return found and found[0]


def _lima_from_hub() -> Rows:
    """The single-turn samples of LIMA out of the Tulu-v2 mixture."""
    mixture = load_hub(LIMA_REPO, "train").filter(
        lambda names, messages: [name == "lima" and len(m) == 2 for name, m in zip(names, messages, strict=True)],
        input_columns=["dataset", "messages"],
        batched=True,
    )
    return Rows([{"id": row["id"], "messages": row["messages"], "others": {}} for row in mixture])
