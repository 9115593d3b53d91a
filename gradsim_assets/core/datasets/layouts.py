"""How rows of other tools hold conversations: which columns, and what makes messages of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradsim_assets.core.errors import kind_of
from gradsim_assets.core.samples import PLAIN

#: A row of a file, by column.
Row = Mapping[str, Any]

#: The columns that a file may hold under other names (`[data.columns]`).
ColumnName = Literal[
    "id",
    "messages",
    "tools",
    "conversations",
    "system",
    "instruction",
    "input",
    "output",
    "history",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "text",
]

#: Who speaks in files of ShareGPT, in the words of chat templates.
_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "function_response": "tool",
}


@dataclass(frozen=True)
class Layout:
    """A way to write conversations: the columns that a file must have, further ones that it may have, and the messages of a row.

    `messages` gives what `core.samples.parse_sample` checks, or None where the row holds none; it raises ValueError where it can
    make nothing of a column.
    """

    name: str
    needs: tuple[str, ...]
    messages: Callable[[Row], Any]
    may: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read of a file."""
        return *self.needs, *self.may


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _with_system(row: Row, messages: list[Any]) -> list[Any]:
    return [_said("system", row["system"]), *messages] if row.get("system") else messages


def _listed(value: Any, role: str) -> list[Any]:
    """What one column holds of a conversation: messages as they are, or a text as a message."""
    return value if isinstance(value, list) and all(isinstance(part, dict) for part in value) else [_said(role, value)]


def _share_gpt(row: Row) -> Any:
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return turns
    return _with_system(row, [_turn(turn, place) for place, turn in enumerate(turns)])


def _turn(turn: Any, place: int) -> Any:
    if isinstance(turn, str):  # as LIMA has them: by user and assistant in turn
        return _said(("user", "assistant")[place % 2], turn)
    if not isinstance(turn, dict) or turn.get("from") is None:
        return turn  # messages with roles stand under this name, too
    speaker = turn["from"]
    return _said(_SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else str(speaker), turn.get("value"))


def _alpaca(row: Row) -> Any:
    parts = [text for name in ("instruction", "input") if (text := row.get(name))]
    asked: Any = "\n".join(parts) if all(isinstance(text, str) for text in parts) else parts
    before = _earlier(row.get("history") or [])
    return _with_system(row, [*before, _said("user", asked), _said("assistant", row.get("output"))])


def _earlier(history: Any) -> list[dict[str, Any]]:
    """The turns before the last two, which Alpaca's files hold as pairs of what was asked and what was answered."""
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ValueError(
            f"history holds {kind_of(history)} where a list of pairs [user's text, assistant's text] must be; correct it."
        )
    return [_said(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]


def _two(prompt: str, answer: str) -> Callable[[Row], Any]:
    def messages(row: Row) -> Any:
        return _with_system(row, [*_listed(row.get(prompt), "user"), *_listed(row.get(answer), "assistant")])

    return messages


def _chosen(row: Row) -> Any:
    """A preferred answer; it may be the whole conversation, with the prompt in it."""
    chosen, prompt = _listed(row.get("chosen"), "assistant"), row.get("prompt")
    is_whole = len(chosen) > 1 and chosen[0].get("role") != "assistant"
    return chosen if is_whole or prompt is None else _with_system(row, [*_listed(prompt, "user"), *chosen])


#: What is read, the first that a file has the columns of; one of paraphrases beside their originals goes before all.
LAYOUTS = (
    Layout("messages", ("messages",), lambda row: row.get("messages"), ("tools",)),
    Layout("the layout of ShareGPT", ("conversations",), _share_gpt, ("system", "tools")),
    Layout("the layout of Alpaca", ("instruction", "output"), _alpaca, ("input", "system", "history")),
    Layout("prompts and completions", ("prompt", "completion"), _two("prompt", "completion"), ("system", "tools")),
    Layout("preferences", ("chosen",), _chosen, ("prompt", "rejected", "system", "tools")),
    Layout("prompts and responses", ("prompt", "response"), _two("prompt", "response"), ("system",)),
    Layout("questions and answers", ("question", "answer"), _two("question", "answer"), ("system",)),
    Layout("plain texts", ("text",), lambda row: None if row.get("text") is None else [_said(PLAIN, row["text"])]),
)
PARAPHRASES = Layout("messages", ("paraphrased_messages",), lambda row: row.get("paraphrased_messages"), ("tools",))

#: All columns that some layout has.
KNOWN = tuple(dict.fromkeys(("id", *(name for one in (PARAPHRASES, *LAYOUTS) for name in one.columns))))


def layout_of(columns: Collection[str], layouts: Sequence[Layout] = LAYOUTS) -> Layout | None:
    """The layout of a file with these columns; None for none that is known."""
    return next((layout for layout in layouts if set(layout.needs) <= set(columns)), None)
