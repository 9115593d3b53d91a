"""One exchange with a chat-completions service: an answer, or what its failure means."""

import email.utils
import json
import re
import time
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.paraphrasing.answer_store import Answer
from gradsim_assets.core.datasets.paraphrasing.errors import RejectedError, TransientError
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request, estimated_tokens
from gradsim_assets.core.errors import InputError

if TYPE_CHECKING:
    import openai

_CONNECT_SECONDS = 10.0

#: Error codes that concern one text, not the way of asking.
REJECTIONS = {
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "string_above_max_length",
    "invalid_prompt",
}

#: What a key looks like in an error message; services mask only its middle.
_KEY = re.compile(r"\b(sk|key|pk|hf)[-_][\w*.\-]{4,}")


def client(options: ParaphraserOptions) -> "openai.AsyncOpenAI":
    """The client for the options; it leaves retrying to us.

    Raises:
        InputError: no key for a service that wants one.
    """
    import openai

    if not options.api_key and options.base_url is None:
        raise InputError(
            "there is no key for the chat service: set OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server of your own."
        )
    return openai.AsyncOpenAI(
        # A server without keys gets a word in its place: the client insists on one.
        api_key=options.api_key or "none",
        base_url=options.url,
        max_retries=0,
        timeout=openai.Timeout(options.timeout_seconds, connect=min(_CONNECT_SECONDS, options.timeout_seconds)),
    )


async def exchange(api: "openai.AsyncOpenAI", request: Request, options: ParaphraserOptions, attempt: int) -> Answer:
    """Asks once.

    Raises:
        TransientError: trying again may help.
        RejectedError: this text is not taken.
        InputError: the key, the model or the address is wrong: asking for another text would not help either.
    """
    import openai

    try:
        # `chat.completions.create` converts request and answer to types, which takes longer than all else here does.
        content = await api.post("/chat/completions", body=request.body(options, attempt), cast_to=object)
    except openai.APIError as error:
        raise meaning(error, options) from None  # the chain would carry headers and unmasked messages
    except ValueError:
        content = None  # said to be JSON, but is none
    return parse_answer(content, request, options)


def parse_answer(content: object, request: Request, options: ParaphraserOptions) -> Answer:
    """The answer in the body of a response with status 200: parsed JSON, or text where it is none.

    Raises:
        TransientError: it is no chat completion: cut off, not JSON, or a page of HTML.
    """
    try:
        document: Any = json.loads(content) if isinstance(content, str) else content
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        refusal = message.get("refusal")
        if not isinstance(text, str):
            raise TypeError
        usage = document.get("usage") or {}
        # A server that does not count gets counted.
        prompt = usage.get("prompt_tokens", estimated_tokens(options.system_prompt + request.text))
        completion = usage.get("completion_tokens", estimated_tokens(text))
        return Answer(
            text.strip("\n"),
            str(choice.get("finish_reason") or "stop"),
            str(refusal) if refusal else None,
            int(prompt),
            int(completion),
            options.cost(int(prompt), int(completion)),
            str(document.get("model") or options.model),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        page = _html(content)
        raise TransientError(
            "a page of HTML instead of JSON" if page is not None else "an invalid answer",
            billed=page is None,
            misdirected=None if page is None else _page_sentence(page, options),
        ) from None


def meaning(error: "openai.APIError", options: ParaphraserOptions) -> Exception:
    """What the failure of one try means: TransientError, RejectedError or InputError."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _meaning_of_status(error, options)
    if isinstance(error, openai.APIConnectionError):
        # A connection that was never made reached nobody; one that broke may have been answered and billed.
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"):
            return TransientError("no connection", billed=False, misdirected=_unreachable(error, options))
        timed_out = isinstance(error, openai.APITimeoutError)
        return TransientError("a timeout" if timed_out else "a dropped connection", billed=True)
    return TransientError("an invalid answer", billed=True)


def _meaning_of_status(error: "openai.APIStatusError", options: ParaphraserOptions) -> Exception:
    status, said = error.status_code, _said(error, options)
    page = _html(error.response.text)
    if status in (401, 403, 407):
        if page is not None:
            return InputError(_page_sentence(page, options, status))
        return InputError(
            f"the chat service at {options.place} refuses the key (HTTP {status}{said}); correct OPENAI_API_KEY."
        )
    if status == 404:
        return InputError(_not_found(page, said, options))
    if status == 429 and error.code == "insufficient_quota":
        return InputError(
            f"the account at {options.place} has no quota left (HTTP 429{said}); top it up and run again: "
            "answers that have arrived are not asked for again."
        )
    if status in (408, 409, 425, 429) or status >= 500:
        return TransientError(f"HTTP {status}", billed=False, retry_after=_retry_after(error.response.headers))
    if error.code in REJECTIONS:
        return RejectedError(str(error.code))
    return InputError(
        f"the chat service at {options.place} does not take the request (HTTP {status}{said}); "
        "correct the model, temperature or seed of [paraphraser]."
    )


def _not_found(page: str | None, said: str, options: ParaphraserOptions) -> str:
    if page is None and (not said or "model" in said or options.model in said):
        return (
            f"the chat service at {options.place} does not know the model {options.model} (HTTP 404{said}); "
            "correct model in [paraphraser]."
        )
    return f"there is no chat service at {options.place} (HTTP 404); OPENAI_BASE_URL usually ends in /v1."


def _unreachable(error: Exception, options: ParaphraserOptions) -> str:
    return (
        f"the chat service at {options.place} cannot be reached ({scrubbed(str(error.__cause__), options)}); "
        "start it, or correct OPENAI_BASE_URL or the proxy settings."
    )


def _page_sentence(title: str, options: ParaphraserOptions, status: int = 200) -> str:
    named = f' titled "{title}"' if title else ""
    return (
        f"{options.place} answers with a web page{named} instead of a chat completion (HTTP {status}), as proxies do; "
        "correct OPENAI_BASE_URL or the proxy settings."
    )


def _html(content: object) -> str | None:
    """The title of a page of HTML (perhaps empty); None for anything else."""
    if not isinstance(content, str) or not re.match(r"\s*<(!doctype|html|head|body)\b", content, re.IGNORECASE):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", content, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split())[:80] if title else ""


def _said(error: "openai.APIStatusError", options: ParaphraserOptions) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    message = body.get("message") or body.get("detail")
    if not isinstance(message, str):
        return ""
    return f": {' '.join(scrubbed(message, options).split())[:200].rstrip('.')}"


def scrubbed(text: str, options: ParaphraserOptions) -> str:
    """The text without anything that is or looks like a key."""
    if options.api_key:
        text = text.replace(options.api_key, "[key]")
    return _KEY.sub("[key]", text)


def _retry_after(headers: Any) -> float | None:
    """Seconds that the service asks to wait: Retry-After-Ms, or Retry-After in seconds or as a date."""
    try:
        return float(headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        pass
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
