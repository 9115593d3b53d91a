"""The index against the rank-bm25 package, ties, places that nobody scores for, and the forced truth."""

import numpy as np
from rank_bm25 import BM25Okapi

from gradsim_assets.core.candidates.bm25 import Index, Retriever
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.analysis_data import documents


def test_scores_equal_rank_bm25_to_the_last_bit() -> None:
    corpus, queries = documents(60, 1), [*documents(20, 2), "unknown words", "w1 w1 w1 unknown"]
    index, reference = Index(corpus), BM25Okapi([text.split() for text in corpus], k1=1.5, b=0.75, epsilon=0.25)
    for query in queries:
        assert np.array_equal(index.scores(query), reference.get_scores(query.split()))


def test_candidates_come_best_first_and_ties_in_corpus_order() -> None:
    index = Index(["a b", "c d", "a b", "e f", "a b"])
    found = index.candidates("a", truth=0, k=3, zero_places=np.arange(5)[::-1])
    assert [(c.index, c.rank, c.forced) for c in found] == [(0, 1, False), (2, 2, False), (4, 3, False)]
    assert not any(candidate.zero_score for candidate in found)


def test_a_missing_truth_replaces_the_last_candidate() -> None:
    index = Index(["a b", "a c", "x y z", "a"])
    found = index.candidates("a", truth=2, k=3)
    assert [candidate.forced for candidate in found] == [False, False, True]
    assert found[-1].index == 2 and found[-1].rank == 3 and found[-1].score == 0.0
    assert not found[-1].zero_score, "it stands there because it is the truth"
    assert len({candidate.index for candidate in found}) == 3


def test_all_originals_can_be_candidates_and_k_may_exceed_them() -> None:
    index = Index(["a", "b", "a b"])
    for k in (None, 10):
        found = index.candidates("b", truth=0, k=k)
        assert sorted(candidate.index for candidate in found) == [0, 1, 2]
        assert not any(candidate.forced for candidate in found)


def test_a_token_that_says_nothing_scores_as_one_that_is_not_there() -> None:
    # In half of the documents: idf = ln((4 - 2 + 0.5) / (2 + 0.5)) = 0.
    found = Index(["a x", "a y", "b z", "b u"]).candidates("a", truth=0, k=None)
    assert [candidate.zero_score for candidate in found] == [True] * 4


def test_every_original_is_drawn_about_equally_often() -> None:
    retriever = Retriever([Sample(f"s{n}", f"only{n}", "-") for n in range(20)])
    variants = [Sample(f"s{n}", "nothing in common", "-") for n in range(20)]
    orders = {tuple(c.index for c in retriever.candidates(v, None)) for v in variants}
    assert len(orders) == 20, "every variant has a draw of its own"
    first = np.bincount([order[place] for order in orders for place in range(5)], minlength=20)
    # 100 draws over 20 originals: 5 each, standard deviation 1.9 (without replacement within a variant).
    assert first.max() <= 5 + 4 * 1.9 and (first > 0).sum() >= 16
