"""The index against the rank-bm25 package, ties, and the forced truth."""

import numpy as np
from rank_bm25 import BM25Okapi

from gradsim_assets.core.candidates.bm25 import Index
from gradsim_assets_tests.support.analysis_data import documents


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
