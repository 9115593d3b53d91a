"""How many candidates a variant has: a number, or all originals."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


def _candidates(value: Any) -> Any:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError('must be a number from 1 up, or "all"')


Candidates = Annotated[int | Literal["all"], BeforeValidator(_candidates)]


def top_k(candidates: Candidates | None) -> int | None:
    """The number of candidates; None for all of them, and where no number was ever set."""
    return None if candidates == "all" else candidates
