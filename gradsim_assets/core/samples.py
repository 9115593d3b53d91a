"""Samples: one single-turn exchange each, and what makes a list of them sound."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import LIMA


@dataclass(frozen=True)
class Sample:
    """One single-turn user/assistant exchange."""

    id: str
    user: str
    assistant: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The exchange in the form that chat templates take."""
        return [{"role": "user", "content": self.user}, {"role": "assistant", "content": self.assistant}]


def parse_sample(sample_id: Any, messages: Sequence[dict[str, str]] | None, source: str) -> Sample:
    """A checked sample from an id and its list of {role, content}.

    Raises:
        InputError: no id, not exactly one user turn followed by one assistant turn, or an empty text.
    """
    if not isinstance(sample_id, str) or not sample_id:
        raise InputError(f"{source}: a sample has no id (found {sample_id!r}); give every sample a unique text id.")
    if not messages:
        raise InputError(f"{source}: sample {sample_id} has no messages; give it one user and one assistant message.")
    roles = [message.get("role") for message in messages]
    if roles != ["user", "assistant"]:
        raise InputError(
            f"{source}: sample {sample_id} is not single-turn (its roles are {', '.join(map(str, roles))}); "
            "keep exactly one user message followed by one assistant message."
        )
    user, assistant = (message.get("content") or "" for message in messages)
    if not user.strip():
        raise InputError(f"{source}: sample {sample_id} has an empty user message; remove the sample or fill it in.")
    if not assistant.strip():
        raise InputError(
            f"{source}: sample {sample_id} has an empty answer, so it has no response tokens and its loss is undefined; "
            "remove the sample or fill it in."
        )
    return Sample(sample_id, user, assistant)


def parse_samples(rows: Iterable[dict[str, Any]], source: str) -> list[Sample]:
    """Checked samples from rows with `id` and `messages`, in order.

    Raises:
        InputError: as `parse_sample`, or two samples share an id.
    """
    samples: dict[str, Sample] = {}
    for row in rows:
        sample = parse_sample(row.get("id"), row.get("messages"), source)
        if sample.id in samples:
            raise InputError(f"{source}: the id {sample.id} occurs more than once; ids must be unique.")
        samples[sample.id] = sample
    return list(samples.values())


def check_variants(variants: Sequence[Sample], originals: Sequence[Sample], source: str) -> None:
    """Raises InputError when a variant has no original of the same id."""
    known = {sample.id for sample in originals}
    orphans = [sample.id for sample in variants if sample.id not in known]
    if orphans:
        raise InputError(
            f"{source}: variant {orphans[0]} has no original of the same id ({len(orphans)} such); "
            "remove it or add its original."
        )


def sample_frame(samples: Sequence[Sample]) -> pl.DataFrame:
    """Columns id and messages of a dataset table."""
    return pl.DataFrame(
        {"id": [sample.id for sample in samples], "messages": [sample.messages for sample in samples]},
        schema={"id": LIMA.columns["id"].dtype, "messages": LIMA.columns["messages"].dtype},
    )


def samples_of(frame: pl.DataFrame) -> list[Sample]:
    """Samples of a dataset table; answers may be empty there (a model may say nothing)."""
    return [Sample(row["id"], row["messages"][0]["content"], row["messages"][1]["content"]) for row in frame.to_dicts()]
