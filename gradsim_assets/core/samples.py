"""Samples: one single-turn exchange each, and what makes a list of them sound."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl

from gradsim_assets.core.errors import InputError, kind_of
from gradsim_assets.core.tables.schemas import LIMA

#: Half of a character of UTF-16, which no text in UTF-8 can hold.
_HALF = re.compile("[\ud800-\udfff]")

#: Types of the parts of a message that are text, as chat services name them.
_TEXTS = ("text", "input_text", "output_text", None)

#: So many characters of an id stand in a sentence.
_SHOWN = 80


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


def parse_sample(sample_id: Any, messages: Any, place: str) -> Sample:
    """A checked sample from an id (text or a whole number) and its list of {role, content}.

    The content of a message is text, or a list of parts that are text and are joined without anything between them.

    Raises:
        InputError: no id, not exactly one user turn followed by one assistant turn, or an empty text, or content that is
            no text; the sentence names `place`, the file and line.
    """
    sample_id = _checked_id(sample_id, place)
    where = f"{place}: sample {_shown(sample_id)}"
    turns = _turns(messages, where)
    if not turns:
        raise InputError(f"{where} has no messages; give it one user and one assistant message.")
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"]:
        raise InputError(
            f"{where} is not single-turn (its roles are {', '.join(map(_shown, roles))}); "
            "keep exactly one user message followed by one assistant message."
        )
    user, assistant = (_text(role, content, where) for role, content in turns)
    if not user.strip():
        raise InputError(f"{where} has an empty user message; remove the sample or fill it in.")
    if not assistant.strip():
        raise InputError(
            f"{where} has an empty answer, so it has no response tokens and its loss is undefined; "
            "remove the sample or fill it in."
        )
    return Sample(sample_id, user, assistant)


def parse_samples(rows: Iterable[Mapping[str, Any]], source: str) -> list[Sample]:
    """Checked samples from rows with `id` and `messages`, in order; a row may say its `place` in the source.

    Raises:
        InputError: as `parse_sample`, or two samples share an id.
    """
    return _unique(rows, source, lambda row, place: parse_sample(row.get("id"), row.get("messages"), place))


def parse_variants(rows: Iterable[Mapping[str, Any]], source: str) -> list[Sample | Missing]:
    """Checked variants from rows as those of `parse_samples`; missing where the messages or a text are null.

    Raises:
        InputError: as `parse_samples`.
    """

    def parse(row: Mapping[str, Any], place: str) -> Sample | Missing:
        sample_id = _checked_id(row.get("id"), place)
        if why := _without(_turns(row.get("messages"), f"{place}: sample {_shown(sample_id)}")):
            return Missing(sample_id, why)
        return parse_sample(sample_id, row.get("messages"), place)

    return _unique(rows, source, parse)


def _turns(messages: Any, where: str) -> list[tuple[Any, Any]]:
    """Role and content of every message."""
    if messages is None:
        return []
    wanted = "messages must be a list of {role, content}; convert it."
    if not isinstance(messages, list):
        raise InputError(f"{where} has {kind_of(messages)} as its messages; {wanted}")
    for message in messages:
        if not isinstance(message, dict):
            raise InputError(f"{where} has {kind_of(message)} among its messages; {wanted}")
        if not {"role", "content"} <= message.keys():
            raise InputError(f"{where} has a message of {{{', '.join(map(str, message))}}}; {wanted}")
    return [(message["role"], message["content"]) for message in messages]


def _without(turns: Sequence[tuple[Any, Any]]) -> str | None:
    """Why messages hold no variant; None where they may hold one."""
    if not turns:
        return "no messages in the file"
    empty = [_shown(role) for role, content in turns if content is None]
    return f"no {' and no '.join(empty)} text in the file" if empty else None


def _text(role: str, content: Any, where: str) -> str:
    """The text of a message, "" for none."""
    if isinstance(content, list):
        text = "".join(_part(part, f"among the parts of its {role} message", where) for part in content)
    elif content is None or isinstance(content, str):
        text = content or ""
    else:
        raise _no_text(content, f"as the content of its {role} message", where)
    if half := _HALF.search(text):
        raise InputError(
            f"{where} has half of a character ({half[0]} at {half.start() + 1}) in its {role} message, as texts do that were "
            "cut in the middle of an emoji; mend or remove the sample."
        )
    return text


def _part(part: Any, place: str, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") in _TEXTS and isinstance(part.get("text"), str):
        return str(part["text"])
    raise _no_text(part, place, where)


def _no_text(value: Any, place: str, where: str) -> InputError:
    of_type = f" of type {_shown(value['type'])}" if isinstance(value, dict) and "type" in value else ""
    return InputError(f"{where} has {kind_of(value)}{of_type} {place}, where text must be; write the text itself.")


def _checked_id(sample_id: Any, place: str) -> str:
    if isinstance(sample_id, int) and not isinstance(sample_id, bool):
        return str(sample_id)
    if not isinstance(sample_id, str) or not sample_id:
        found = '""' if sample_id == "" else kind_of(sample_id)
        raise InputError(
            f"{place}: a sample has no id (found {found}); give every sample a unique text or whole number."
        )
    if _HALF.search(sample_id):
        raise InputError(f"{place}: the id {_shown(sample_id)} holds half of a character; give the sample another one.")
    return sample_id


def _shown(value: Any) -> str:
    """A value of a file, short enough to stand in a sentence."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _unique(
    rows: Iterable[Mapping[str, Any]], source: str, parse: Callable[[Mapping[str, Any], str], Identified]
) -> list[Identified]:
    found: dict[str, Identified] = {}
    for row in rows:
        place = row.get("place", source)
        sample = parse(row, place)
        if sample.id in found:
            raise InputError(f"{place}: the id {_shown(sample.id)} occurs more than once; ids must be unique.")
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
