"""One exchange with a chat-completions service."""

from typing import TYPE_CHECKING

from gradsim_assets.core.datasets.paraphrasing.answer_store import Answer
from gradsim_assets.core.datasets.paraphrasing.completion import parse_answer
from gradsim_assets.core.datasets.paraphrasing.errors import TransientError
from gradsim_assets.core.datasets.paraphrasing.failures import failure_of_response, meaning, scrubbed
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request
from gradsim_assets.core.errors import InputError

if TYPE_CHECKING:
    import openai

_CONNECT_SECONDS = 10.0


def client(options: ParaphraserOptions) -> "openai.AsyncOpenAI":
    """The client for the options; it leaves retrying to us.

    Raises:
        InputError: no key for a service that wants one, or one that cannot be a key.
    """
    import openai

    if not options.api_key and not options.base_url:
        raise InputError(
            "there is no key for the chat service: set OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server of your own."
        )
    if options.api_key and not (options.api_key.isascii() and options.api_key.isprintable()):
        raise InputError(
            "OPENAI_API_KEY holds a character that no key has (a line break, or one beyond ASCII); set it to the key alone."
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
        RefusedError: this request is not taken, for its text or for its fields.
        InputError: the key, the model or the address is wrong: asking for another text would not help either.
    """
    import openai

    try:
        # `chat.completions.create` converts request and answer to types, which takes longer than all else here does, and
        # reads text in whatever charset the header names; the bytes are what the service sent.
        content = await api.post("/chat/completions", body=request.body(options, attempt), cast_to=bytes)
    except openai.APIError as error:
        raise failed(error, options) from None  # the chain would carry headers and unmasked messages
    return parse_answer(content, request, options)


def failed(error: "openai.APIError", options: ParaphraserOptions) -> Exception:
    """What the failure of one try means: TransientError, RejectedError, RefusedError or InputError."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return meaning(failure_of_response(error.status_code, error.response.content, error.response.headers), options)
    if isinstance(error, openai.APIConnectionError):
        # A connection that was never made reached nobody; one that broke may have been answered and billed.
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"):
            return TransientError("no connection", billed=False, misdirected=_unreachable(error, options))
        timed_out = isinstance(error, openai.APITimeoutError)
        return TransientError("a timeout" if timed_out else "a dropped connection", billed=True, text_alone=True)
    return TransientError("an invalid answer", billed=True, text_alone=True)


def _unreachable(error: Exception, options: ParaphraserOptions) -> str:
    return (
        f"the chat service at {options.place} cannot be reached ({scrubbed(str(error.__cause__), options)}); "
        "start it, or correct OPENAI_BASE_URL or the proxy settings."
    )
