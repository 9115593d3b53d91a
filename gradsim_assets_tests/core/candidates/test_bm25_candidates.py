"""The table of candidates: fewer out of more, and none out of nothing."""

import polars as pl
import pytest

from gradsim_assets.core.candidates.bm25_candidates import candidate_frame, top_candidates
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets_tests.support.analysis_data import documents


@pytest.mark.parametrize("held", [4, 9, "all"])
def test_fewer_candidates_out_of_a_table_of_more_are_those_that_would_have_been_found(held: int | str) -> None:
    originals, variants = (
        sample_frame([Sample(f"s{number}", text, "answer") for number, text in enumerate(documents(40, seed))])
        for seed in (3, 4)
    )
    table = candidate_frame(originals, variants, held)
    for k in (1, 2, 4):
        expected = candidate_frame(originals, variants, k)
        assert 0 < expected["forced"].sum() < expected.height
        assert top_candidates(table, k).equals(expected)
    assert top_candidates(table, 50).equals(table)
    assert top_candidates(table, None).equals(table)


def test_no_candidates_out_of_an_empty_table() -> None:
    table = candidate_frame(sample_frame([Sample("a", "a", "b")]), sample_frame([Sample("a", "a", "b")]), 1)
    assert top_candidates(table.clear(), 3).equals(pl.DataFrame(schema=table.schema))
