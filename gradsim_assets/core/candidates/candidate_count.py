"""How many candidates a variant has: a number, or all originals."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from gradsim_assets.core.candidates.candidate_source import ALL, CandidateSource
from gradsim_assets.core.errors import InputError


def _candidates(value: Any) -> Any:
    if value == ALL or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    if isinstance(value, str):
        try:
            source = CandidateSource.of(value)
        except InputError:
            pass
        else:
            if source.index:
                raise ValueError(
                    'must come of BM25, or be "all": the index of a model is looked in by `gradsim trace --against index`'
                )
            return source.bm25
    raise ValueError('must be a number from 1 up, "bm25:5" with such a number, or "all"')


Candidates = Annotated[int | Literal["all"], BeforeValidator(_candidates)]


def top_k(candidates: Candidates | None) -> int | None:
    """The number of candidates; None for all of them, and where no number was ever set."""
    return None if candidates == "all" else candidates
