"""One text to be paraphrased, as it is sent to a chat model."""

from dataclasses import dataclass
from typing import Any

from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions, digest

#: Tokens of the longest answer that is ever asked for, reasoning left out.
_LONGEST_ANSWER = 16_384


@dataclass(frozen=True)
class Request:
    """One text to be rewritten. Equal texts have equal keys, whatever sample and role they stand in."""

    key: str
    text: str
    role: str

    def body(self, options: ParaphraserOptions, attempt: int) -> dict[str, Any]:
        """The chat-completions request; the seed moves on with the attempt (from 0), so that a retry can differ."""
        values = {
            "temperature": options.temperature,
            "max_completion_tokens": self.completion_limit(options),
            "seed": None if options.first_seed is None else options.first_seed + attempt,
        }
        return {
            "model": options.model,
            **{
                options.sent_as(name): value
                for name, value in values.items()
                if options.sent_as(name) and value is not None
            },
            "messages": [
                {"role": "system", "content": options.system_prompt},
                {"role": "user", "content": self.text},
            ],
        }

    def completion_limit(self, options: ParaphraserOptions) -> int:
        """Tokens that an answer may have: twice what the text could need, so that only runaways are cut, and the reasoning.

        A token is at least one byte, so this also bounds what a request can cost. Where the limit is not sent at all, an
        answer may be as long as the longest that is ever asked for.
        """
        needed = 256 + 2 * estimated_tokens(self.text) + len(self.text) // 4
        sent = bool(options.sent_as("max_completion_tokens"))
        return (min(_LONGEST_ANSWER, needed) if sent else _LONGEST_ANSWER) + options.reasoning_tokens

    def most_expensive(self, options: ParaphraserOptions) -> float:
        """USD that one request costs at the most."""
        # Byte-level tokenizers make at most one token of a byte; the rest is the frame of the messages.
        prompt = len(self.text.encode()) + len(options.system_prompt.encode()) + 32
        return options.cost(prompt, self.completion_limit(options))


def request_for(text: str, role: str, options: ParaphraserOptions) -> Request:
    """The request for one text, with the key that its answers are stored under."""
    return Request(digest([options.campaign, text]), text, role)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: four ASCII characters a token, one other character a token."""
    ascii_characters = len(text.encode("ascii", "ignore"))
    return -(-ascii_characters // 4) + len(text) - ascii_characters
