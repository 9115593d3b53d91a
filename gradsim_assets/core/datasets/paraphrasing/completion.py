"""What the body of a chat completion holds: the answer, how it ended, what it took. Servers differ in all three."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer
from gradsim_assets.core.datasets.paraphrasing.errors import TransientError
from gradsim_assets.core.datasets.paraphrasing.failures import failure_of, meaning, page_sentence, page_title, scrubbed
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request, estimated_tokens

#: Ends of which the service says itself that they are its own failure.
_BROKEN_OFF = {"error", "abort", "aborted", "cancelled", "canceled", "network_error", "insufficient_system_resource"}

#: Counts beyond are none.
_MOST_TOKENS = 2**31

#: What is wrong with a document that is no completion.
_INVALID = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def parse_answer(content: object, request: Request, options: ParaphraserOptions) -> Answer:
    """The answer in the body of a response with status 200: its bytes, or a document of a batch's output.

    Raises:
        TransientError: it is no chat completion (cut off, not JSON, a page of HTML), or tells of a fault that may pass.
        RejectedError, RefusedError, InputError: it tells of a fault that does not (see `failures.meaning`).
    """
    try:
        document: Any = _document(content) if isinstance(content, bytes) else content
    except _INVALID:
        raise invalid(content, options) from None
    choices = document.get("choices") if isinstance(document, dict) else None
    choice: Any = _first(choices) if isinstance(choices, list) and choices else {}
    for told in (document, choice):
        if failure := failure_of(told, completed=bool(choice)):
            raise meaning(failure, options)
    try:
        answer = _answer(document, choice, request, options)
    except _INVALID:
        raise invalid(content, options) from None
    if ending(answer.finish_reason) in _BROKEN_OFF:
        raise TransientError(f"finish_reason {answer.finish_reason}", billed=True)
    return answer


def ending(reason: str) -> str:
    """A finish reason in one spelling: `FinishReason.MAX_TOKENS` and `max-tokens` are `max_tokens`."""
    word = re.sub(r"[\s-]+", "_", reason.strip().casefold().rpartition(".")[2])
    return word.removeprefix("finish_reason_")


def _document(content: bytes) -> Any:
    """The JSON of a body; the pieces of a stream, which some servers send unasked, put together.

    Raises:
        ValueError: it is neither, or it breaks off.
    """
    try:
        return json.loads(content)
    except ValueError:
        text = content.decode("utf-8")  # whatever charset the header names: JSON and event streams have this one
        if not re.match(r"\s*(data|event|id|retry)?:", text):
            raise
        return _put_together(text)


def _put_together(stream: str) -> dict[str, Any]:
    """One completion out of the server-sent events of a stream."""
    text: list[str] = []
    last: dict[str, Any] = {}
    reason, ended = None, False
    for event in re.split(r"(?:\r\n|\r|\n){2,}", stream):
        lines = [line[5:].removeprefix(" ") for line in re.split(r"\r\n|\r|\n", event) if line.startswith("data:")]
        data = "\n".join(lines).strip()
        if not data or data == "[DONE]":
            ended = ended or bool(data)
            continue
        piece = json.loads(data)
        if failure_of(piece, completed=bool(piece.get("choices"))):
            return piece
        last |= {name: value for name, value in piece.items() if value is not None}
        for choice in piece.get("choices") or ():
            if choice.get("index") in (0, None):
                text.append(_texts(_message(choice).get("content"))[0])
                reason = choice.get("finish_reason") or reason
    if reason is None and not ended:
        raise ValueError("the stream breaks off")
    whole = {"finish_reason": reason, "message": {"content": "".join(text)}}
    return {**last, "choices": [whole]}


def _first(choices: Sequence[Any]) -> Any:
    """The choice of index 0, wherever it stands: a server may send several, though one is asked for."""
    return next((one for one in choices if isinstance(one, dict) and one.get("index") in (0, None)), choices[0])


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message of a choice, or its piece of one; a choice that ended before it had any is an empty one.

    Raises:
        LookupError: it is no choice.
    """
    if not {"message", "delta", "text"} & choice.keys() and not choice.get("finish_reason"):
        raise LookupError("a choice without a message")
    return choice.get("message") or choice.get("delta") or {"content": choice.get("text")}


def _answer(document: Any, choice: Any, request: Request, options: ParaphraserOptions) -> Answer:
    """Raises LookupError, TypeError and the like for what is no completion."""
    message = _message(choice)
    text, refusal = _texts(message.get("content"))
    refusal = message.get("refusal") or refusal
    reason = str(choice.get("finish_reason") or "stop")
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    # A server that does not count gets counted.
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    prompt = _count(usage, ("prompt_tokens", "input_tokens"), options.system_prompt + request.text)
    completion = _count(
        usage, ("completion_tokens", "output_tokens"), text + (thought if isinstance(thought, str) else "")
    )
    return Answer(
        text.strip("\n"),
        "content_filter" if reason == REJECTED else reason,
        str(refusal) if refusal else None,
        prompt,
        completion,
        options.cost(prompt, completion),
        str(document.get("model") or options.model),
        request.completion_limit(options),
    )


def _texts(content: Any) -> tuple[str, str | None]:
    """Text and refusal of a message's content: a text, or parts of which some are text; reasoning is left out.

    Raises:
        TypeError: it is neither.
    """
    texts: list[str] = []
    refusal = None
    parts = [] if content is None else content if isinstance(content, list) else [content]
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise TypeError(f"content holds {part!r}")
        elif part.get("type", "text") in ("text", "output_text"):
            value = part["text"]
            texts.append((value["value"] if isinstance(value, dict) else value) or "")
        elif "refusal" in part:
            refusal = part["refusal"]
    return "".join(texts), refusal


def _count(usage: Mapping[str, Any], names: Sequence[str], text: str) -> int:
    """Tokens as the service counted them under one of the names; an estimate from the text where it did not (or says 0)."""
    found = (usage.get(name) for name in names)
    counted = (value for value in found if isinstance(value, int | float) and not isinstance(value, bool))
    return next((int(value) for value in counted if 0 < value < _MOST_TOKENS), estimated_tokens(text))


def invalid(content: object, options: ParaphraserOptions, what: str = "chat completion") -> TransientError:
    """A body that is not what was asked for; so may be everything at this address."""
    shown = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    page = page_title(shown)
    if page is not None:
        sentence = page_sentence(page, options)
        return TransientError("a page of HTML instead of JSON", billed=False, misdirected=sentence)
    start = " ".join(scrubbed(shown[:2000], options).split())[:120]
    return TransientError(
        "an invalid answer",
        billed=True,
        misdirected=(
            f"{options.place} answers with what is no {what} (HTTP 200: {start or 'an empty body'}); correct "
            "OPENAI_BASE_URL, or ask a server that speaks the chat-completions protocol."
        ),
        text_alone=True,
    )
