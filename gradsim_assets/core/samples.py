"""Samples: one single-turn exchange each, and what makes a list of them sound."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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


@dataclass(frozen=True)
class Missing:
    """A variant that could not be had, and why: it is left out of whatever follows, and never stands for itself."""

    id: str
    why: str


#: Whatever has an id.
Identified = TypeVar("Identified", Sample, Missing, Sample | Missing)


def parse_sample(sample_id: Any, messages: Sequence[dict[str, str]] | None, source: str) -> Sample:
    """A checked sample from an id and its list of {role, content}.

    Raises:
        InputError: no id, not exactly one user turn followed by one assistant turn, or an empty text.
    """
    sample_id = _checked_id(sample_id, source)
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
    return _unique((parse_sample(row.get("id"), row.get("messages"), source) for row in rows), source)


def parse_variants(rows: Iterable[dict[str, Any]], source: str) -> list[Sample | Missing]:
    """Checked variants from rows with `id` and `messages`, in order; missing where the messages or a text are null.

    Raises:
        InputError: as `parse_samples`.
    """

    def parse(row: dict[str, Any]) -> Sample | Missing:
        if why := _without(row.get("messages")):
            return Missing(_checked_id(row.get("id"), source), why)
        return parse_sample(row.get("id"), row.get("messages"), source)

    return _unique(map(parse, rows), source)


def _without(messages: Any) -> str | None:
    """Why messages hold no variant; None where they may hold one."""
    if not messages:
        return "no messages in the file"
    empty = [message.get("role") for message in messages if message.get("content") is None]
    return f"no {' and no '.join(map(str, empty))} text in the file" if empty else None


def _checked_id(sample_id: Any, source: str) -> str:
    if not isinstance(sample_id, str) or not sample_id:
        raise InputError(f"{source}: a sample has no id (found {sample_id!r}); give every sample a unique text id.")
    return sample_id


def _unique(samples: Iterable[Identified], source: str) -> list[Identified]:
    found: dict[str, Identified] = {}
    for sample in samples:
        if sample.id in found:
            raise InputError(f"{source}: the id {sample.id} occurs more than once; ids must be unique.")
        found[sample.id] = sample
    return list(found.values())


def check_variants(variants: Sequence[Sample | Missing], originals: Sequence[Sample], source: str) -> None:
    """Raises InputError when a variant has no original of the same id."""
    known = {sample.id for sample in originals}
    orphans = [sample.id for sample in variants if sample.id not in known]
    if orphans:
        raise InputError(
            f"{source}: variant {orphans[0]} has no original of the same id ({len(orphans)} such); "
            "remove it or add its original."
        )


def sample_frame(samples: Sequence[Sample | Missing]) -> pl.DataFrame:
    """Columns id and messages of a dataset table; messages are null where a variant is missing."""
    messages = [None if isinstance(sample, Missing) else sample.messages for sample in samples]
    return pl.DataFrame(
        {"id": [sample.id for sample in samples], "messages": messages},
        schema={"id": LIMA.columns["id"].dtype, "messages": LIMA.columns["messages"].dtype},
    )


def present(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a dataset table without those whose variant is missing."""
    return frame.filter(pl.col("messages").is_not_null())


def samples_of(frame: pl.DataFrame) -> list[Sample]:
    """Samples of a dataset table, missing variants left out; answers may be empty there (a model may say nothing)."""
    rows = present(frame).to_dicts()
    return [Sample(row["id"], row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows]
