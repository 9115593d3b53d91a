"""What can be configured as candidates: numbers, all, BM25's, the index's, both; anything else is refused in one sentence."""

import pytest
from pydantic import TypeAdapter, ValidationError

from gradsim_assets.core.candidates.candidate_choice import CandidateChoice, by_bm25, by_index, held_by_bm25

CHOICE: TypeAdapter[int | str] = TypeAdapter(CandidateChoice)


@pytest.mark.parametrize(
    ("written", "choice", "bm25", "index", "held"),
    [
        (5, 5, 5, 0, 5),
        ("all", "all", "all", 0, "all"),
        ("bm25:7", 7, 7, 0, 7),
        ("index:50", "index:50", 0, 50, 1),
        ("index:20 + bm25:5", "bm25:5+index:20", 5, 20, 5),
    ],
)
def test_choices_are_read(written: object, choice: object, bm25: object, index: int, held: object) -> None:
    found = CHOICE.validate_python(written)
    assert found == choice and type(found) is type(choice), "what was a number before stays one"
    assert (by_bm25(found), by_index(found), held_by_bm25(found)) == (bm25, index, held)
    assert CHOICE.validate_python(found) == found


def test_nothing_is_looked_up_where_nobody_says() -> None:
    assert by_index(None) == 0


@pytest.mark.parametrize(
    "written", [0, -1, True, 2.5, "", "5", "indx:5", "index", "index:0", "index:5+index:6", "all+index:5"]
)
def test_other_spellings_are_refused(written: object) -> None:
    with pytest.raises(ValidationError) as refused:
        CHOICE.validate_python(written)
    (error,) = refused.value.errors()
    assert error["msg"].endswith(
        'must be a number from 1 up, "all", "bm25:5", "index:50" or "bm25:5+index:20", with numbers from 1 up'
    )
