"""Candidates against the rank-bm25 package, ties, and the forced truth."""

import random

import numpy as np
import polars as pl
import pytest
from rank_bm25 import BM25Okapi

from gradsim_assets.core.candidates.bm25 import Index
from gradsim_assets.core.candidates.bm25_candidates import candidate_frame, top_candidates
from gradsim_assets.core.samples import Sample, sample_frame


def documents(count: int, seed: int) -> list[str]:
    words, rng = [f"w{n}" for n in range(30)], random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(1, 25))) for _ in range(count)]


def test_scores_equal_rank_bm25_to_the_last_bit() -> None:
    corpus, queries = documents(60, 1), [*documents(20, 2), "unknown words", "w1 w1 w1 unknown"]
    index, reference = Index(corpus), BM25Okapi([text.split() for text in corpus], k1=1.5, b=0.75, epsilon=0.25)
    for query in queries:
        assert np.array_equal(index.scores(query), reference.get_scores(query.split()))


def test_candidates_come_best_first_and_ties_in_corpus_order() -> None:
    index = Index(["a b", "c d", "a b", "e f", "a b"])
    found = index.candidates("a", truth=0, k=3)
    assert [(c.index, c.rank, c.forced) for c in found] == [(0, 1, False), (2, 2, False), (4, 3, False)]


def test_a_missing_truth_replaces_the_last_candidate() -> None:
    index = Index(["a b", "a c", "x y z", "a"])
    found = index.candidates("a", truth=2, k=3)
    assert [candidate.forced for candidate in found] == [False, False, True]
    assert found[-1].index == 2 and found[-1].rank == 3 and found[-1].score == 0.0
    assert len({candidate.index for candidate in found}) == 3


def test_all_originals_can_be_candidates_and_k_may_exceed_them() -> None:
    index = Index(["a", "b", "a b"])
    for k in (None, 10):
        found = index.candidates("b", truth=0, k=k)
        assert sorted(candidate.index for candidate in found) == [0, 1, 2]
        assert not any(candidate.forced for candidate in found)


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
