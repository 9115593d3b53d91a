"""What is configured as candidates: a number of BM25's best, all originals, or some of them by the model's own index."""

from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from gradsim_assets.core.candidates.candidate_count import Candidates
from gradsim_assets.core.candidates.candidate_source import ALL, CandidateSource
from gradsim_assets.core.errors import InputError

_COUNT: TypeAdapter[Candidates] = TypeAdapter(Candidates)


def _choice(value: Any) -> Any:
    source = _source(value)
    if source and source.index:
        return str(source)  # one spelling for one choice
    try:
        return _COUNT.validate_python(value)
    except ValidationError as error:
        raise ValueError(
            'must be a number from 1 up, "all", "bm25:5", "index:50" or "bm25:5+index:20", with numbers from 1 up'
        ) from error


def _source(value: Any) -> CandidateSource | None:
    try:
        return CandidateSource.of(value) if isinstance(value, str) else None
    except InputError:
        return None


#: As `Candidates`, or a text such as "bm25:5+index:20" where the index gives some of them.
CandidateChoice = Annotated[int | str, BeforeValidator(_choice)]


def by_index(choice: int | str | None) -> int:
    """How many candidates the index gives; 0 where none of them come from there."""
    source = _source(choice)
    return source.index if source else 0


def by_bm25(choice: int | str) -> Candidates:
    """How many candidates BM25 gives; 0 where all come from the index."""
    if choice == ALL:
        return ALL
    source = _source(choice)
    return source.bm25 if source else int(choice)


def held_by_bm25(choice: int | str) -> Candidates:
    """How many candidates the table `bm25_candidates` holds for a choice: where all come from the index, the own original alone."""
    return by_bm25(choice) or 1
