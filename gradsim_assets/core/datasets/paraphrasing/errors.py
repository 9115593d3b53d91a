"""What can go wrong with a chat service, beyond bad input."""

from dataclasses import dataclass

from gradsim_assets.core.errors import InputError


class SpendingLimitError(InputError):
    """The next request could cross the spending limit."""


@dataclass
class TransientError(Exception):
    """One try failed in a way that may pass.

    `billed`: it may have cost something all the same. `misdirected`: so fails whatever does not lead to the service at
    all; says so in a sentence.
    """

    reason: str
    billed: bool
    retry_after: float | None = None
    misdirected: str | None = None


@dataclass
class RejectedError(Exception):
    """The service will not take this one text (too long, filtered), however often it is asked."""

    reason: str
