"""How candidates are written: read as they are said, and refused in one sentence otherwise."""

import pytest

from gradsim_assets.core.candidates.candidate_source import CandidateSource
from gradsim_assets.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "bm25", "index"),
    [("all", 0, 0), ("bm25:5", 5, 0), ("index:50", 0, 50), ("bm25:5+index:20", 5, 20), ("index:20 + bm25:5", 5, 20)],
)
def test_sources_are_read(text: str, bm25: int, index: int) -> None:
    found = CandidateSource.of(text)
    assert (found.bm25, found.index, found.is_all) == (bm25, index, text == "all")
    assert CandidateSource.of(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "5", "bm25", "bm25:0", "bm25:-1", "index:5+index:6", "all+index:5", "faiss:5", "bm25:5+"]
)
def test_what_names_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no candidates"):
        CandidateSource.of(text)
