"""Samples: one conversation each, and what makes a list of them sound."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import polars as pl

from gradsim_assets.core.errors import InputError, kind_of
from gradsim_assets.core.tables.schemas import CONVERSATION, LIMA

#: Half of a character of UTF-16, which no text in UTF-8 can hold.
_HALF = re.compile("[\ud800-\udfff]")

#: Types of the parts of a message that are text, as chat services name them.
_TEXTS = ("text", "input_text", "output_text", None)

#: So many characters of an id stand in a sentence.
_SHOWN = 80


#: Who speaks in a conversation. Only the assistant's turns are answers, and only they and the user's are rewritten.
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "environment", "observation")

#: The role of a text without turns (pretraining): no template stands around it, and the loss is on all of it.
PLAIN = "text"

#: What chat templates read of a message besides its role and content.
_MORE = ("name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning")

#: Whose texts are compared and rewritten.
_SPOKEN = ("user", "assistant")

#: A message as chat templates take it.
Message = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One conversation.

    Attributes:
        user, assistant: The texts of the user's and of the assistant's turns in order, several joined by line ends; both are all
            of a plain text.
        conversation: All of it as JSON, {"messages": [...], "tools": [...]}; None where it is one exchange, of which the two
            texts say all.
    """

    id: str
    user: str
    assistant: str
    conversation: str | None = None

    @classmethod
    def of(cls, sample_id: str, messages: Sequence[Message], tools: Sequence[Any] | None = None) -> Self:
        """The sample of these messages and of the tools (JSON schemas) that its assistant may call."""
        said = {role: [m["content"] or "" for m in messages if m["role"] in (role, PLAIN)] for role in _SPOKEN}
        user, assistant = ("\n".join(filter(None, said[role])) for role in ("user", "assistant"))
        exchange = [(m["role"], sorted(m)) for m in messages] == [(role, ["content", "role"]) for role in _SPOKEN]
        if exchange and not tools:
            return cls(sample_id, user, assistant)
        document = {"messages": list(messages), **({"tools": list(tools)} if tools else {})}
        return cls(sample_id, user, assistant, json.dumps(document, ensure_ascii=False))

    @property
    def messages(self) -> list[Message]:
        """The conversation in the form that chat templates take."""
        if self.conversation is not None:
            return list(json.loads(self.conversation)["messages"])
        return [{"role": "user", "content": self.user}, {"role": "assistant", "content": self.assistant}]

    @property
    def tools(self) -> list[Any] | None:
        """The tools that the assistant may call; None for none."""
        return None if self.conversation is None else json.loads(self.conversation).get("tools")

    @property
    def is_plain(self) -> bool:
        """Whether it is a text without turns."""
        return self.conversation is not None and self.messages[0]["role"] == PLAIN

    @property
    def prompt(self) -> list[Message]:
        """What its last answer answers: all messages before it, or all of them where the last one is no answer."""
        messages = self.messages
        return messages[:-1] if messages[-1]["role"] == "assistant" else messages

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Role and text of the user's and the assistant's turns in order, those without text (a mere tool call) left out."""
        return [(m["role"], m["content"]) for m in self.messages if _is_spoken(m)]

    def with_texts(self, texts: Iterable[str]) -> Self:
        """The same conversation with other texts in the place of `texts`."""
        rest = iter(texts)
        messages = [{**m, "content": next(rest)} if _is_spoken(m) else m for m in self.messages]
        return self.of(self.id, messages, self.tools)


def _is_spoken(message: Message) -> bool:
    return message["role"] in (*_SPOKEN, PLAIN) and bool(message["content"])


@dataclass(frozen=True)
class Missing:
    """A variant that could not be had, and why: it is left out of whatever follows, and never stands for itself."""

    id: str
    why: str


#: Whatever has an id.
Identified = TypeVar("Identified", Sample, Missing, Sample | Missing)


def parse_sample(sample_id: Any, messages: Any, place: str, tools: Any = None) -> Sample:
    """A checked sample from an id (text or a whole number), its list of {role, content, ...} and its tools (a list, or JSON).

    The content of a message is text, or a list of parts that are text and are joined without anything between them. Fields of
    tools and tool calls that are null are left out, as in TRL: columns of tables hold them where other rows have a value.

    Raises:
        InputError: no id, an unknown role, no answer or one before any user turn, or an empty text, or content that is no
            text; the sentence names `place`, the file and line.
    """
    sample_id = _checked_id(sample_id, place)
    where = f"{place}: sample {_shown(sample_id)}"
    turns = [_message(message, where) for message in _listed(messages, where)]
    if not turns:
        raise InputError(f"{where} has no messages; give it one user and one assistant message, or more.")
    _check_turns(turns, where)
    return Sample.of(sample_id, turns, _tools(tools, where))


def _check_turns(turns: Sequence[Message], where: str) -> None:
    roles = [turn["role"] for turn in turns]
    if roles == [PLAIN]:
        if not turns[0]["content"].strip():
            raise InputError(f"{where} has an empty text; remove the sample or fill it in.")
        return
    if unknown := [role for role in roles if role not in ROLES]:
        raise InputError(f"{where} has the role {_shown(unknown[0])}; roles are {', '.join(ROLES)}: rename it.")
    if "assistant" not in roles:
        raise InputError(f"{where} has no assistant message, so there is nothing that its loss is on; add its answer.")
    if "user" not in roles[: roles.index("assistant")]:
        raise InputError(
            f"{where} has an assistant message before any user message (its roles are {', '.join(map(_shown, roles[:6]))}), which "
            "answers nothing; remove it."
        )
    for turn in turns:
        if turn["role"] == "user" and not (turn["content"] or "").strip():
            raise InputError(f"{where} has an empty user message; remove the sample or fill it in.")
        if turn["role"] == "assistant" and not (turn["content"] or "").strip() and not turn.get("tool_calls"):
            raise InputError(
                f"{where} has an empty answer, so it has no response tokens and its loss is undefined; "
                "remove the sample or fill it in."
            )


def parse_samples(rows: Iterable[Mapping[str, Any]], source: str) -> list[Sample]:
    """Checked samples from rows with `id`, `messages` and perhaps `tools`, in order; a row may say its `place` in the source.

    Raises:
        InputError: as `parse_sample`, or two samples share an id.
    """
    return _unique(rows, source, _parsed)


def parse_variants(rows: Iterable[Mapping[str, Any]], source: str) -> list[Sample | Missing]:
    """Checked variants from rows as those of `parse_samples`; missing where the messages or a text are null.

    Raises:
        InputError: as `parse_samples`.
    """

    def parse(row: Mapping[str, Any], place: str) -> Sample | Missing:
        sample_id = _checked_id(row.get("id"), place)
        if why := _without(_listed(row.get("messages"), f"{place}: sample {_shown(sample_id)}")):
            return Missing(sample_id, why)
        return _parsed(row, place)

    return _unique(rows, source, parse)


def _parsed(row: Mapping[str, Any], place: str) -> Sample:
    return parse_sample(row.get("id"), row.get("messages"), place, row.get("tools"))


def _listed(messages: Any, where: str) -> list[dict[str, Any]]:
    """The messages of a sample, each with a role and content (or tool calls in its place)."""
    if messages is None:
        return []
    wanted = "messages must be a list of {role, content}; convert it."
    if not isinstance(messages, list):
        raise InputError(f"{where} has {kind_of(messages)} as its messages; {wanted}")
    for message in messages:
        if not isinstance(message, dict):
            raise InputError(f"{where} has {kind_of(message)} among its messages; {wanted}")
        if not ("role" in message and ("content" in message or message.get("tool_calls"))):
            raise InputError(f"{where} has a message of {{{', '.join(map(str, message))}}}; {wanted}")
    return messages


def _without(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Why messages hold no variant; None where they may hold one."""
    if not messages:
        return "no messages in the file"
    empty = [_shown(m["role"]) for m in messages if m.get("content") is None and not m.get("tool_calls")]
    return f"no {' and no '.join(dict.fromkeys(empty))} text in the file" if empty else None


def _message(message: Mapping[str, Any], where: str) -> Message:
    """A message as templates take it: no text is "", or None beside tool calls; what is null or unknown to them is left out."""
    role, content = message["role"], message.get("content")
    more = {name: without_null(message[name]) for name in _MORE if message.get(name) is not None}
    calls = more.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InputError(f"{where} has {kind_of(calls)} as tool_calls, which must be a list of objects; correct it.")
    text = None if content is None and calls else _text(str(role), content, where)
    return {"role": role, "content": text, **{name: value for name, value in more.items() if value != []}}


def without_null(value: Any) -> Any:
    """A value without the fields of objects that are null."""
    if isinstance(value, dict):
        return {name: without_null(part) for name, part in value.items() if part is not None}
    return [without_null(part) for part in value] if isinstance(value, list) else value


def _tools(tools: Any, where: str) -> list[Any] | None:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} has tools that are no JSON ({error}); write a list of their schemas.") from error
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"{where} has {kind_of(tools)} as its tools; write a list of their schemas.")
    return without_null(tools) or None


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
    """Columns id and messages of a dataset table; messages are null where a variant is missing.

    Where a sample holds more than roles and texts (tools, tool calls, names), the column conversation has all of it.
    """
    spoken = [[] if isinstance(sample, Missing) else sample.messages for sample in samples]
    texts = [[{"role": m["role"], "content": m["content"]} for m in messages] or None for messages in spoken]
    whole = [
        sample.conversation if isinstance(sample, Sample) and _holds_more(sample, messages) else None
        for sample, messages in zip(samples, spoken, strict=True)
    ]
    frame = pl.DataFrame(
        {"id": [sample.id for sample in samples], "messages": texts},
        schema={"id": LIMA.columns["id"].dtype, "messages": LIMA.columns["messages"].dtype},
    )
    return frame.with_columns(pl.Series(CONVERSATION, whole, pl.String())) if any(whole) else frame


def _holds_more(sample: Sample, messages: Sequence[Message]) -> bool:
    return sample.tools is not None or any(len(message) > 2 for message in messages)


def present(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a dataset table without those whose variant is missing."""
    return frame.filter(pl.col("messages").is_not_null())


def samples_of(frame: pl.DataFrame) -> list[Sample]:
    """Samples of a dataset table, missing variants left out; answers may be empty there (a model may say nothing)."""
    found = []
    for row in present(frame).to_dicts():
        whole = json.loads(row.get(CONVERSATION) or "{}")
        found.append(Sample.of(row["id"], whole.get("messages", row["messages"]), whole.get("tools")))
    return found
