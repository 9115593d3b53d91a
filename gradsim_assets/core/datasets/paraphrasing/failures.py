"""What the failure of a request means: worth another try, the fault of one text, or of the way of asking."""

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradsim_assets.core.datasets.paraphrasing.errors import RefusedError, RejectedError, TransientError
from gradsim_assets.core.datasets.paraphrasing.options import FIELDS, ParaphraserOptions
from gradsim_assets.core.errors import InputError


@dataclass(frozen=True)
class Failure:
    """A failure as the service tells of it.

    `status` is HTTP's, or the one in the body of an answer with status 200; `codes` are its machine-readable names in
    one text, `words` its sentences; `page` is the title of a page of HTML that came in place of them.
    """

    status: int
    codes: str = ""
    words: str = ""
    page: str | None = None
    retry_after: float | None = None


# Services name the same faults differently; what decides is searched in codes and words together, without regard to case.
_NO_CREDIT = re.compile(
    r"insufficient[_ -]?(user[_ ])?(quota|balance|credit|fund)|(no|not enough|out of|exhausted|negative|low) credit|"
    r"credit balance|exceeded_current_quota|billing[_ ](hard|not|limit)|billing_error|payment[_ ]required|"
    r"\btop[ -]?up\b|arrears",
    re.IGNORECASE,
)
_PERHAPS_NO_CREDIT = re.compile(r"billing|\bquota\b|\bbalance\b", re.IGNORECASE)
_WAITING_HELPS = re.compile(
    r"rate.?limit|too many requests|per (second|minute|hour)|(retry|try again) (in|after)", re.IGNORECASE
)
_TOO_LONG = re.compile(
    r"context_length|maximum context|context (length|window|size)|string_above_max|(too|longer) (long|large|than the m)|"
    r"must have less than \d+ tokens|reduce (the|your) (length|prompt|input|message)|(token|length|size) limit|"
    r"exceed\w* .{0,40}(tokens|context|length)|max(imum)?[_ ](input|prompt|model|seq\w*)[_ ](len|length|tokens)",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ -]?(filter|policy|management)|invalid_prompt|data_?inspection|moderation|flagged|responsible_?ai|"
    r"\bsafety\b|prohibited_content|sensitive[_ ]?(content|word|info)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model[_ ]not[_ ](found|exist)|(invalid|unknown|no such) model|model\b.{0,80}(not found|not exist)",
    re.IGNORECASE,
)
_NO_KEY = re.compile(
    r"(invalid|incorrect|missing|no|wrong)[_ ](\w+[_ ])?api[_ ]?key|api key not valid|authenticat|unauthori[sz]ed",
    re.IGNORECASE,
)
_NOT_HERE = re.compile(r"\b(country|region|territory|location)\b", re.IGNORECASE)
_NO_SYSTEM = re.compile(
    r"system (role|message|prompt|instruction)\b.{0,40}\bnot|roles must alternate|developer instruction", re.IGNORECASE
)
_MAY_PASS = re.compile(
    r"overload|busy|capacity|time[d_ -]?out|unavailable|temporar|try again|retry|internal|server[_ ]error|upstream|"
    r"provider returned|bad gateway|rate.?limit|too many requests|loading",
    re.IGNORECASE,
)

_TRANSIENT = (408, 409, 425, 429)

#: Error codes that concern one text, not the way of asking.
_REJECTIONS = (
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "string_above_max_length",
    "invalid_prompt",
)

#: Server errors that are there again at the next try.
_LASTING = (501, 505)

#: What a key looks like in an error message; services mask only its middle.
_KEY = re.compile(r"\b(sk|key|pk|hf)[-_](?=[\w.\-*]*[\d*])[\w*.\-]{4,}")

_CODES = ("code", "type", "status", "param", "error_type", "error_code", "innererror")

_WORDS = ("message", "msg", "detail", "error", "errors", "status_msg", "reason", "raw")


def failure_of(document: object, completed: bool = False, status: int = 200) -> Failure | None:
    """The failure that a document tells of; None for one that tells of none. `completed`: it holds an answer as well."""
    if isinstance(document, list) and document:  # Google wraps its errors in a list
        document = document[0]
    if not isinstance(document, dict):
        return None
    told: Any = document.get("error") or document.get("errors")
    if told is None and not completed:
        told = next((document[name] for name in ("detail", "base_resp") if document.get(name)), None)
        told = document if told is None and _said(document) else told
    if not told:
        return None
    codes = _codes(document) + (_codes(told) if isinstance(told, dict) and told is not document else [])
    inner = [int(code) for code in codes if code.isdecimal() and 400 <= int(code) < 600]
    return Failure(inner[0] if inner and status == 200 else status, " ".join(codes), _said(told))


def failure_of_response(status: int, content: bytes, headers: Mapping[str, str]) -> Failure:
    """The failure that a response with an error status tells of."""
    text = content.decode("utf-8", "replace")
    wait = retry_after(headers)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        page = page_title(text)
        return Failure(status, words="" if page is not None else text, page=page, retry_after=wait)
    found = failure_of(document, status=status) or Failure(status)
    return Failure(status, found.codes, found.words, retry_after=wait)


def _said(told: Any) -> str:
    """The sentences of an error of any shape: a text, {message, ...}, or a list of {loc, msg}."""
    if isinstance(told, str):
        return told
    if isinstance(told, list):
        return "; ".join(words for words in map(_said, told) if words)
    if not isinstance(told, dict):
        return ""
    where = told.get("loc")
    place = f"{'.'.join(map(str, where))}: " if isinstance(where, list) else ""
    words = next((words for name in _WORDS if (words := _said(told.get(name)))), "")
    more = _said(told.get("metadata"))  # a router's: what the provider behind it said
    return place + words + (f" ({more})" if words and more else "")


def _codes(told: Mapping[str, Any]) -> list[str]:
    found = [told.get(name) for name in _CODES]
    inner = [value["code"] for value in found if isinstance(value, dict) and "code" in value]
    return [str(value) for value in [*found, *inner] if isinstance(value, str | int)]


def meaning(failure: Failure, options: ParaphraserOptions) -> Exception:
    """What a failure means: TransientError, RejectedError, RefusedError or InputError."""
    status, text = failure.status, f"{failure.codes} {failure.words}"
    said = _shown(failure, options)
    if status in (401, 403, 407) and failure.page is not None:
        return InputError(page_sentence(failure.page, options, status))
    if _lacks_credit(failure, text):
        what = "credit" if status == 402 or re.search("credit|balance|fund", text, re.IGNORECASE) else "quota"
        return InputError(
            f"the account at {options.place} has no {what} left (HTTP {status}{said}); top it up and run again: "
            "answers that have arrived are not asked for again."
        )
    if status in (400, 403, 413, 422, 429, 500, 200) and (rejected := _rejection(failure, text, said, options)):
        return rejected
    if status == 403 and _NOT_HERE.search(text):
        return InputError(
            f"the chat service at {options.place} is not offered from here (HTTP {status}{said}); ask another service."
        )
    if status in (401, 403, 407) or (status in (200, 400) and _NO_KEY.search(text)):
        return InputError(
            f"the chat service at {options.place} refuses the key (HTTP {status}{said}); correct OPENAI_API_KEY."
        )
    if status in (404, 405) or (status in (200, 400, 422) and _NO_MODEL.search(text)):
        return InputError(_not_found(failure, said, options))
    if _may_pass(status, text):
        return TransientError(
            f"HTTP {status}{said}", billed=False, retry_after=failure.retry_after, text_alone=status in (200, 500)
        )
    return RefusedError(f"HTTP {status}{said}", _refused(failure, said, options))


def _lacks_credit(failure: Failure, text: str) -> bool:
    if failure.status == 402 or _NO_CREDIT.search(text):
        return True
    # Quotas of a minute heal, and those who keep them say when.
    waiting = failure.retry_after is not None or _WAITING_HELPS.search(text)
    return failure.status in (403, 429) and not waiting and bool(_PERHAPS_NO_CREDIT.search(text))


def _rejection(failure: Failure, text: str, said: str, options: ParaphraserOptions) -> RejectedError | None:
    """The fault of this one text: too long, or filtered."""
    code = next((code for code in _REJECTIONS if code in failure.codes.split()), None)
    if code:
        return RejectedError(code)
    too_long = failure.status == 413 or _TOO_LONG.search(text)
    if too_long and _named_field(failure, options) in (None, "max_completion_tokens"):
        return RejectedError(f"too long: HTTP {failure.status}{said}")
    if failure.status < 429 and _FILTERED.search(text):
        return RejectedError(f"filtered: HTTP {failure.status}{said}")
    return None


def _may_pass(status: int, text: str) -> bool:
    if status == 200:
        return bool(_MAY_PASS.search(text))
    return status in _TRANSIENT or (status >= 500 and status not in _LASTING)


def _named_field(failure: Failure, options: ParaphraserOptions) -> str | None:
    """The one of `FIELDS` that the service complains of."""
    text = f"{failure.codes} {failure.words}"
    sent = ((name, options.sent_as(name)) for name in FIELDS if options.sent_as(name))
    return next(
        (name for name, shown in sent if re.search(rf"(?<![A-Za-z]){re.escape(shown)}(?![A-Za-z])", text)), None
    )


def _refused(failure: Failure, said: str, options: ParaphraserOptions) -> str:
    name = _named_field(failure, options)
    mend = "correct the model, temperature or seed of [paraphraser]"
    if _NO_SYSTEM.search(failure.words):
        mend = "choose a model that takes a system message (model in [paraphraser])"
    if name:
        mend = f'leave the field out by fields = {{ {name} = "" }} in [paraphraser], or give it the name that the service knows'
    return f"the chat service at {options.place} does not take the request (HTTP {failure.status}{said}); {mend}."


def _not_found(failure: Failure, said: str, options: ParaphraserOptions) -> str:
    words = f"{failure.codes} {failure.words}"
    if (
        failure.page is None
        and failure.status != 405
        and (not said or "model" in words.lower() or options.model in words)
    ):
        return (
            f"the chat service at {options.place} does not know the model {options.model} (HTTP {failure.status}{said}); "
            "correct model in [paraphraser]."
        )
    return f"there is no chat service at {options.place} (HTTP {failure.status}); OPENAI_BASE_URL usually ends in /v1."


def page_sentence(title: str, options: ParaphraserOptions, status: int = 200) -> str:
    """What to say of a page of HTML in place of an answer."""
    named = f' titled "{title}"' if title else ""
    return (
        f"{options.place} answers with a web page{named} instead of a chat completion (HTTP {status}), as proxies do; "
        "correct OPENAI_BASE_URL or the proxy settings."
    )


def page_title(content: str) -> str | None:
    """The title of a page of HTML (perhaps empty); None for anything else."""
    if not re.match(r"\s*<(!doctype|html|head|body)\b", content, re.IGNORECASE):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", content, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split())[:80] if title else ""


def _shown(failure: Failure, options: ParaphraserOptions) -> str:
    """The service's own words behind a colon, or its code where it has no words; without keys, and not too long."""
    words = " ".join(scrubbed(failure.words or failure.codes, options).split())
    return f": {words[:200].rstrip('.')}" if words else ""


def scrubbed(text: str, options: ParaphraserOptions) -> str:
    """The text without anything that is or looks like a key; a short one is taken out only where it stands alone."""
    if options.api_key:
        text = re.sub(rf"(?<![\w-]){re.escape(options.api_key)}(?![\w-])", "[key]", text)
    return _KEY.sub("[key]", text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait: Retry-After-Ms, or Retry-After in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            date = email.utils.parsedate_tz(value)
            seconds = math.nan if date is None else email.utils.mktime_tz(date) - time.time()
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None
