"""What chat models put around a rewritten text: reasoning, a preamble, quotes, a fence. Taken off, or pointed out.

An envelope is taken off where that is certain: the text that was to be rewritten has nothing like it, so the rewriting
cannot have kept it. Where it may belong to the text, it stays and is named.
"""

import json
import re
from collections.abc import Callable

#: Opening and closing marks of reasoning that belongs outside of the content.
_THOUGHTS = [
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "thoughts", "reasoning", "reflection")),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>", "<unused95>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
]

#: The same where a server has dropped the marks themselves.
_UNMARKED_THOUGHT = re.compile(r"\s*analysis.*assistantfinal", re.DOTALL)

_SPECIAL = r"<\|[a-z_0-9]+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<(?:eos|bos|pad)>"
_SPECIAL_ENDS = re.compile(
    rf"\A(?:\s{{0,9}}(?:{_SPECIAL}))+\s{{0,9}}|(?:\s{{0,9}}(?:{_SPECIAL}))+\s{{0,9}}\Z", re.IGNORECASE
)

#: Rewriting, in the languages that models answer in.
_TASK = re.compile(
    r"paraphras|re-?(writ|phras|word|stat)|reformul|other words|different(ly)? word|umformul|umgeschrieb|parafras|paráfras|"
    r"reescri|riscri|riformul|herschreven|herformul|перефраз|переписан|переформул|改写|改寫|重写|重寫|释义|言い換え|書き換え|"
    r"바꿔 쓴|다시 쓴",
    re.IGNORECASE,
)

_EAGER = re.compile(
    r"\W*(sure|certainly|of course|absolutely|okay|ok|alright|got it|here you go|here('s|’s| is| are))\b", re.IGNORECASE
)

#: A first line that introduces: up to a colon, alone in its paragraph, or a heading.
_INTRODUCTION = re.compile(
    r"(?P<said>[#*_ ]{0,4}[^\n:：{}<>\[\]]{1,120}?)(?:[:：][*_]{0,2}(?=\s|$)|[*_.!]{0,3}[ \t]*\n[ \t]*\n|(?<=\*\*)[ \t]*\n)\s*"
)
_HEADING = re.compile(r"(?P<said>#{1,6} [^\n]{1,80})\n\s*")
_COLON = re.compile(r"[:：](\s|\*|$)")

#: A last paragraph that speaks to whoever asked.
_REMARK = re.compile(r"\n[ \t]*\n[ \t]*(?P<said>[^\n]{1,300})\s*$")
_CLOSING = re.compile(
    r"\W*((please )?let me know|feel free|i hope (this|that)|hope this|note( that)?\b|would you like|if you('d| would| need| want))",
    re.IGNORECASE,
)

_FENCED = re.compile(r"\s*(?P<fence>`{3,}|~{3,})[^\n`]*\n(?P<inside>.*?)\n?[ \t]*(?P=fence)\s*", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})", re.MULTILINE)

_ELEMENT = re.compile(r"\s*<(?P<name>[A-Za-z][\w-]{0,30})>\s*(?P<inside>.*?)\s*</(?P=name)>\s*", re.DOTALL)

_QUOTES = [
    ('"', '"'),
    ("“", "”"),
    ("„", "“"),
    ("«", "»"),
    ("'", "'"),
    ("‘", "’"),
    ("「", "」"),
    ("『", "』"),
    ("`", "`"),
    ("**", "**"),
]
_QUOTE_MARKS = tuple({mark for pair in _QUOTES for mark in pair})

#: What is left of an answer, and the envelope that may still be on it.
_Opened = tuple[str, str | None]

#: Envelopes lie in one another, hardly deeper than this.
_DEEPEST = 6


def opened(answer: str, text: str) -> _Opened:
    """The rewriting of `text` within an answer, and the name of an envelope that it may still be in (None: none).

    "" comes back where the answer is nothing but envelope.
    """
    doubt = None
    for _ in range(_DEEPEST):
        before, doubts = answer, []
        for take_off in _TAKE_OFF:
            answer, found = take_off(answer, text)
            doubts.append(found)
        doubt = next((found for found in doubts if found), None)
        if answer == before:
            break
        answer = answer.strip()
    return answer, doubt


def without_reasoning(answer: str, text: str) -> _Opened:
    """The answer without reasoning between marks, whole or broken off; as it is where the text has such marks itself."""
    for start, end in _THOUGHTS:
        opening, closing = (re.compile(re.escape(mark), re.IGNORECASE) for mark in (start, end))
        if opening.search(text) or closing.search(text):
            counts = [len(opening.findall(one)) + len(closing.findall(one)) for one in (answer, text)]
            if counts[0] > counts[1]:
                return answer, "reasoning"
            continue
        if not opening.search(answer) and not closing.search(answer):
            continue
        # A template may have opened it in the prompt; the end of the answer may have come before it closed.
        *thought, rest = closing.split(answer)
        said = [opening.split(part)[0] for part in thought if opening.search(part)]
        answer = "".join([*said, opening.split(rest)[0]]).strip()
    if not _UNMARKED_THOUGHT.match(text):
        answer = _UNMARKED_THOUGHT.sub("", answer, count=1) if _UNMARKED_THOUGHT.match(answer) else answer
    return answer, None


def _special_tokens(answer: str, text: str) -> _Opened:
    if re.search(_SPECIAL, text, re.IGNORECASE):
        return answer, None
    return _SPECIAL_ENDS.sub("", answer), None


def _preamble(answer: str, text: str) -> _Opened:
    inner = answer.lstrip()
    found = _HEADING.match(inner) or _INTRODUCTION.match(inner)
    if not found:
        return answer, None
    said, introduces = found["said"], bool(_COLON.search(text[:200]))
    more_lines = "\n" not in found[0] or _lines(answer) > _lines(text)
    if _TASK.search(said):
        if _TASK.search(text[:400]):
            return answer, None  # the text itself speaks of rewriting
        return (inner[found.end() :], None) if more_lines and not introduces else (answer, "preamble")
    eager = _EAGER.match(said) and not _EAGER.match(text)
    return answer, "preamble" if eager and more_lines and not introduces else None


def _remark(answer: str, text: str) -> _Opened:
    found = _REMARK.search(answer, max(0, len(answer) - 600))
    if not found or _lines(answer) <= _lines(text):
        return answer, None
    said = found["said"]
    if _TASK.search(said) and not _TASK.search(text):
        return answer[: found.start()], None
    own = _REMARK.search(text, max(0, len(text) - 600))
    closing = _CLOSING.match(said) and not (own and _CLOSING.match(own["said"]))
    return answer, "closing remark" if closing else None


def _lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def _fence(answer: str, text: str) -> _Opened:
    found = _FENCED.fullmatch(answer)
    if not found or _FENCE.match(text.lstrip()):
        return answer, None
    more = len(_FENCE.findall(answer)) - len(_FENCE.findall(text))
    return (found["inside"], None) if more == 2 else (answer, "code fence")


def _element(answer: str, text: str) -> _Opened:
    found = _ELEMENT.fullmatch(answer)
    if not found or f"<{found['name']}" in text or f"<{found['name']}>" in found["inside"]:
        return answer, None
    return found["inside"], None


def _json(answer: str, text: str) -> _Opened:
    if not answer.strip().startswith(("{", '"')) or text.lstrip().startswith(("{", '"')):
        return answer, None
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer, None
    if isinstance(value, str):  # plain quotes are another matter; here they come with their escapes
        return (value, None) if "\\" in answer and "\\" not in text else (answer, None)
    texts = [part for part in value.values() if isinstance(part, str)]
    return (texts[0], None) if len(texts) == len(value) == 1 else (answer, "JSON")


def _quotes(answer: str, text: str) -> _Opened:
    whole, own = answer.strip(), text.strip()
    for start, end in _QUOTES:
        inside = whole[len(start) : -len(end)]
        if not (inside and whole.startswith(start) and whole.endswith(end)):
            continue
        if own.startswith(_QUOTE_MARKS) and own.endswith(_QUOTE_MARKS):
            return answer, None
        # An apostrophe within a word is no quote.
        rest = re.sub(r"(?<=\w)['’](?=\w)", "", inside)
        if start in rest or end in rest:
            return answer, None if start in text or end in text else "quotes"
        if own.startswith(_QUOTE_MARKS) or own.endswith(_QUOTE_MARKS):
            return answer, "quotes"
        return inside, None
    return answer, None


_TAKE_OFF: tuple[Callable[[str, str], _Opened], ...] = (
    *(without_reasoning, _special_tokens, _json, _fence, _element, _preamble, _remark, _quotes),
)
