"""Which tokens of a conversation are its answers: as its chat template marks them, or by growing prefixes. Nothing is guessed.

The marks are those of transformers' `return_assistant_tokens_mask`, on which TRL's `assistant_only_loss` rests. Without them the
prompt of every answer must be what the whole begins with, and the conversation up to its end token for token. A token that holds
the end of a prompt and the beginning of its answer (line ends and spaces merge) counts, as in TRL, and makes the sample a doubtful one.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.chat_templates import marked_answers, render
from gradsim_assets.core.samples import Message, Sample

#: What the loss of a conversation is on: all answers, the last one, or every token.
LossOn = Literal["assistant", "last", "all"]

#: Tokens of an answer: its first, and the one behind its last.
Span = tuple[int, int]


class Border(NamedTuple):
    """The token that a stretch of text begins with, or the one behind its last; not exact where that holds other text, too."""

    token: int
    exact: bool


#: Thoughts that a generation prompt opens; a conversation may hold an answer without any in their place.
_OPENED_THOUGHTS = re.compile(r"<think>\s*(</think>\s*)?\Z")

_THOUGHTS_END = "</think>"


@dataclass(frozen=True)
class Rendered:
    """A conversation under a chat template (the text of one, None the tokenizer's own)."""

    tokenizer: Any
    template: str | None
    sample: Sample

    @cached_property
    def messages(self) -> list[Message]:
        """The messages of the conversation."""
        return self.sample.messages

    @cached_property
    def text(self) -> str:
        """The whole as one string."""
        return self.until(len(self.messages))

    @cached_property
    def ids(self) -> np.ndarray:
        """Token ids of the whole, int64 [T]."""
        return np.asarray(self._encoding["input_ids"], dtype=np.int64)

    @cached_property
    def _encoding(self) -> Any:
        return self.tokenizer(self.text, add_special_tokens=False)

    @cached_property
    def marked(self) -> list[tuple[int, int]] | None:
        """Where in the text the template marks what is to be generated; None where it marks nothing."""
        return marked_answers(self.tokenizer, self.template, self.messages, self.sample.tools)

    def until(self, count: int, generation_prompt: bool = False) -> str:
        """The first messages as one string."""
        return render(self.tokenizer, self.template, self.messages[:count], generation_prompt, self.sample.tools)

    def ids_of(self, text: str) -> np.ndarray:
        """Token ids of a text; special tokens come from the text alone."""
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def first_token(self, place: int) -> Border | None:
        """The first token of what begins at a character of the text; None where the tokenizer cannot say."""
        return self._between(place) or self._holding(place, place)

    def last_token(self, place: int) -> Border | None:
        """The token behind the last of what ends before a character of the text; None where the tokenizer cannot say."""
        found = self._between(place) or self._holding(place, place - 1)
        return found if found is None or found.exact else Border(found.token + 1, False)

    def _between(self, place: int) -> Border | None:
        """The border between two tokens that a place is; None where none is there.

        Where the tokenizer does not say which characters its tokens hold (spaces at their beginning, say), the tokens before the
        place must be those of the text before it.
        """
        if self.tokenizer.is_fast and place < len(self.text):
            token = self._encoding.char_to_token(place)
            if token is not None and self._encoding.token_to_chars(token).start == place:
                return Border(token, True)
        ids = self.ids_of(self.text[:place])
        return Border(len(ids), True) if np.array_equal(ids, self.ids[: len(ids)]) else None

    def _holding(self, place: int, character: int) -> Border | None:
        """The token that holds a character, where the tokenizer knows."""
        found = self._encoding.char_to_token(character) if self.tokenizer.is_fast else None
        return None if found is None else Border(found, False)

    def changed(self, **change: Any) -> bool:
        """Whether other messages or tools make another text, or none that the template takes."""
        with suppress(InputError):
            given = {"messages": self.messages, "tools": self.sample.tools, **change}
            return render(self.tokenizer, self.template, given["messages"], False, given["tools"]) != self.text
        return True

    def refusal(self, number: int, why: str) -> InputError:
        """The error for a message (from 0) of which it cannot be said which tokens are the answer's."""
        return InputError(
            f"sample {self.sample.id}: under its chat template, {why} (message {number + 1}, {self.messages[number]['role']}), "
            "so it cannot be said exactly which tokens are answers; give the model another chat_template (one that marks answers "
            'by {% generation %}, say), set data.loss_on = "all", or remove the sample.'
        )


def answer_spans(
    rendered: Rendered, loss_on: LossOn, opens_answers: bool, generated: bool = False
) -> tuple[list[Span], bool]:
    """The tokens of all answers in order, or of the last one, and whether all of them are for sure just the answers.

    A template that marks answers says it; whatever it puts behind an answer within the marks (an end token, a line end) counts,
    as it does where answers are found by growing prefixes. `opens_answers`: the template has a generation prompt. Of an answer
    that the model `generated` (the last one), whose tokens nobody can mend, a doubtful border is where prompt and whole part.

    Raises:
        InputError: the template leaves out or changes what was said, or it cannot be told exactly where an answer begins or ends.
    """
    whole = _check_whole(rendered, generated)
    answers = [n for n, message in enumerate(rendered.messages) if message["role"] == "assistant"]
    wanted = answers[-1:] if loss_on == "last" else answers
    if rendered.marked is not None:
        spans, exact = _marked(rendered, wanted[0], rendered.marked)
        return spans, exact and whole
    spans, sure = [], whole
    for number in wanted:
        begin, end, exact = _grown(rendered, number, opens_answers, generated and number == len(rendered.messages) - 1)
        spans.append((begin, end))
        sure = sure and exact
    return spans, sure


def _marked(rendered: Rendered, first: int, places: Sequence[tuple[int, int]]) -> tuple[list[Span], bool]:
    """The marked parts of the answers from the first that is wanted, and whether all borders are exact."""
    both = zip(rendered.until(first), rendered.text, strict=False)
    before = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    spans, exact = [], True
    for start, end in places:
        if start < before:
            continue
        begin, behind = rendered.first_token(start), rendered.last_token(end)
        if begin is None or behind is None:
            raise rendered.refusal(first, f"tokens go over the border of the answer {rendered.text[start:end][:40]!r}")
        spans.append((begin.token, behind.token))
        exact = exact and begin.exact and behind.exact
    return spans, exact


def _grown(rendered: Rendered, number: int, opens_answers: bool, lenient: bool) -> tuple[int, int, bool]:
    """First token of an answer, the one behind its last, and whether they are sure."""
    prompt, until = rendered.until(number, True), rendered.until(number + 1)
    beginnings = (prompt, _OPENED_THOUGHTS.sub("", prompt))
    before = next((text for text in beginnings if rendered.text.startswith(text)), None)
    begin = None if before is None else rendered.first_token(len(before))
    said = (rendered.messages[number]["content"] or "").strip()
    end = _end(rendered, number, until)
    if end is None and before is not None and said and "tool_calls" not in rendered.messages[number]:
        end = _end_of_text(rendered, said, until, len(before))
    place = until.find(said, len(before or ""))
    why = None
    if before is None:
        why = "the conversation does not begin with the prompt of the answer"
    elif begin is None:
        why = "tokens go over the border of the answer"
    elif end is None:
        why = "the conversation goes on otherwise behind the answer than where it ends there"
    elif place < 0:
        why = "the answer is changed"
    elif not opens_answers and until[len(before) : place].strip():
        why = "there is no generation prompt, and so no telling a header from the answer"
    if why is None and begin is not None and end is not None:
        return begin.token, end, begin.exact
    if not lenient:
        raise rendered.refusal(number, why or "")
    return _common(rendered.ids_of(prompt), rendered.ids), len(rendered.ids), False


def _end(rendered: Rendered, number: int, until: str) -> int | None:
    """Where an answer ends; None where the whole does not go on with what the conversation up to the answer holds.

    At the end of a conversation a template may put special tokens that it does not put within one (Phi 3 does).
    """
    if number == len(rendered.messages) - 1:
        return len(rendered.ids)
    if rendered.text.startswith(until) and (border := rendered.first_token(len(until))) is not None and border.exact:
        return border.token
    ids = rendered.ids_of(until)
    common = _common(ids, rendered.ids)
    return common if set(ids[common:].tolist()) <= set(rendered.tokenizer.all_special_ids) else None


def _end_of_text(rendered: Rendered, said: str, until: str, begin: int) -> int | None:
    """Where an answer ends that is just its text, right behind its prompt, and what the template puts behind it.

    At the end of a conversation a template may show it otherwise (Qwen 3 opens thoughts there that it leaves out before).
    """
    _, found, behind = until.rpartition(said)
    place = rendered.text.find(said + behind, begin)
    if not (found and behind) or place < 0 or rendered.text[begin:place].strip():
        return None
    border = rendered.last_token(place + len(said + behind))
    return border.token if border is not None and border.exact else None


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    shorter = min(len(first), len(second))
    unlike = np.flatnonzero(first[:shorter] != second[:shorter])
    return int(unlike[0]) if len(unlike) else shorter


def _check_whole(rendered: Rendered, generated: bool) -> bool:
    """Whether the template has all that was said as it is; of a text that the model generated (the last one) it need not.

    Where it marks answers itself, it may leave out what an answer was thought before.

    Raises:
        InputError: it leaves out or changes another text, a tool call or a tool.
    """
    whole = True
    for number, message in enumerate(rendered.messages):
        said = message["content"] or ""
        if rendered.marked is not None and message["role"] == "assistant":
            said = said.rpartition(_THOUGHTS_END)[2]
        as_json = json.dumps(said, ensure_ascii=False)[1:-1]
        if said.strip() not in rendered.text and as_json.strip() not in rendered.text:
            if not (generated and number == len(rendered.messages) - 1):
                raise rendered.refusal(number, "a text is changed or left out")
            whole = False
        calls = message.get("tool_calls", [])
        for place in range(len(calls)):
            others = {**message, "tool_calls": calls[:place] + calls[place + 1 :]}
            if rendered.changed(messages=[*rendered.messages[:number], others, *rendered.messages[number + 1 :]]):
                continue
            raise rendered.refusal(number, "a tool call is left out")
    if rendered.sample.tools and not rendered.changed(tools=None):
        raise InputError(
            f"sample {rendered.sample.id}: its chat template leaves out its tools; give the model a chat_template that takes "
            "tools, or remove them."
        )
    return whole
