"""What can go wrong with a chat service, beyond bad input."""

from dataclasses import dataclass

from gradsim_assets.core.errors import InputError


class SpendingLimitError(InputError):
    """The next request could cross the spending limit."""


@dataclass
class TransientError(Exception):
    """One try failed in a way that may pass.

    `billed`: it may have cost something all the same. `misdirected`: so fails whatever does not lead to the service at
    all; says so in a sentence. `text_alone`: it may be this one text that makes the service fail.
    """

    reason: str
    billed: bool
    retry_after: float | None = None
    misdirected: str | None = None
    text_alone: bool = False


@dataclass
class RejectedError(Exception):
    """The service will not take this one text (too long, filtered), however often it is asked."""

    reason: str


@dataclass
class RefusedError(Exception):
    """The service does not take the request, be it for its text or for its fields: what becomes of others tells which.

    `sentence`: what to say where it takes none.
    """

    reason: str
    sentence: str
