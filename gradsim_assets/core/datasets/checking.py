"""All that is wrong with a source of samples, and how a model will see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from gradsim_assets.core.datasets.sample_columns import sample_columns
from gradsim_assets.core.datasets.sample_files import Source, read_rows
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, parse_samples

if TYPE_CHECKING:
    from gradsim_assets.core.models.tokenization import ChatTokenizer


@dataclass(frozen=True)
class Checked:
    """What a source holds: its sound samples, a sentence for every fault, sentences on how it was read, and the other columns of the
    samples (`sample_columns`)."""

    samples: list[Sample]
    faults: list[str]
    notes: list[str]
    columns: pl.DataFrame


def check_source(source: Source) -> Checked:
    """Reads a source to its end, whatever is wrong with single lines and samples.

    Raises:
        InputError: the source as a whole cannot be read, as `read_rows`.
        ServiceError: the hub does not answer.
    """
    faults: list[str] = []
    found = read_rows(source, faults=faults)
    known: dict[str, Sample] = {}
    others: dict[str, Mapping[str, Any]] = {}
    for row in found.rows:
        try:
            (sample,) = parse_samples([row], source.location)
        except InputError as error:
            faults.append(str(error))
            continue
        if sample.id in known:
            faults.append(f"{row['place']}: the id {sample.id} occurs more than once; ids must be unique.")
        known.setdefault(sample.id, sample)
        others.setdefault(sample.id, row["others"])
    columns, notes = sample_columns(list(known), list(others.values()), found.nested)
    return Checked(list(known.values()), faults, [*found.notes, *notes], columns)


def check_encoding(samples: Sequence[Sample], chat: "ChatTokenizer") -> tuple[dict[str, int], list[str]]:
    """The lengths in tokens of the samples that the loss can be told of, by id, and a sentence for every other one."""
    lengths, faults = {}, []
    for sample in samples:
        try:
            lengths[sample.id] = chat.encode(sample).length
        except InputError as error:
            faults.append(str(error))
    return lengths, faults


def as_seen(sample: Sample, chat: "ChatTokenizer") -> list[tuple[str, bool]]:
    """A sample as the model sees it, cut where the loss begins and ends: texts, each with whether the loss counts it.

    Raises:
        InputError: as `ChatTokenizer.encode`.
    """
    from gradsim_assets.core.models.encoded_sample import IGNORED

    encoded = chat.encode(sample)
    pieces: list[tuple[str, bool]] = []
    shown, tokens = "", 0
    for counted, group in groupby(encoded.labels.tolist(), lambda label: label != IGNORED):
        tokens += len(list(group))
        text = chat.decode(encoded.input_ids[:tokens].tolist(), special_tokens=True)
        pieces.append((text[len(shown) :], counted))
        shown = text
    return pieces
