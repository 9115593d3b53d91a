"""Recall of an index: against cosines of plain gradients, in whatever parts, and a killed measurement goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from gradsim_assets.core.gradients.engine import PassRequest, PassResult, run_pass
from gradsim_assets.core.index.index_recall import (
    drawn_queries,
    exact_cosines,
    recall_by_reranked,
    recall_frame,
    recall_sentence,
)
from gradsim_assets_tests.support.curvature_cases import model_of, request
from gradsim_assets_tests.support.engine_cases import brute_force

ORIGINALS = request().originals
QUERIES = request(seed=5).originals[:2]


def running(model, ran, stop=None):
    @contextmanager
    def run(number: int, asked: PassRequest) -> Iterator[PassResult]:
        if number == stop:
            raise KeyboardInterrupt
        ran.append(number)
        yield run_pass(model, asked)

    return run


def test_exact_cosines_are_those_of_plain_gradients_in_any_parts(tmp_path):
    model, ran = model_of("tied"), []
    with pytest.raises(KeyboardInterrupt):
        exact_cosines(running(model, ran, stop=2), QUERIES, ORIGINALS, tmp_path, part=4)
    found = exact_cosines(running(model, ran), QUERIES, ORIGINALS, tmp_path, part=4)
    assert ran == [0, 1, 2], "what was finished is not done again"
    whole = exact_cosines(running(model, []), QUERIES, ORIGINALS, None)
    np.testing.assert_allclose(found, whole, atol=1e-6)

    def flat(sample):
        exact = brute_force(model_of("tied"), sample)
        return np.concatenate([exact[name].numpy().ravel() for name in sorted(exact)])

    rows, others = np.stack([flat(one) for one in QUERIES]), np.stack([flat(one) for one in ORIGINALS])
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(others, axis=1)
    np.testing.assert_allclose(found, rows @ others.T / lengths, atol=1e-5)  # fp32 against float64


def test_recall_counts_the_truth_among_the_best():
    ids = [f"lima_{number}" for number in range(40)]
    exact = np.stack([np.arange(40.0), -np.arange(40.0)])
    exact[1, 0] = np.nan  # has no length, and is the least similar
    best = [ids[::-1], [*ids[20:], *ids[:20]]]
    frame = recall_frame(["a", "b"], ids, exact, best)
    found = {(row["variant_id"], row["reranked"]): row["found"] for row in frame.iter_rows(named=True)}
    assert set(frame["k"]) == {10}
    assert [found["a", n] for n in (10, 20, 40)] == [10, 10, 10]
    assert [found["b", n] for n in (10, 20, 40)] == [0, 0, 10]
    shown = recall_by_reranked(frame).to_dicts()
    assert [(row["reranked"], row["recall"]) for row in shown] == [(10, 0.5), (20, 0.5), (40, 1.0)]
    assert shown[-1]["low"] is None, "equal values say nothing of how far others lie"
    assert recall_sentence(frame, 30).startswith("recall@10 0.500 among 20 (2 queries, 95 % interval 0.000 to 1.000")
    assert recall_sentence(frame, 100) == "recall@10 1.000 among 40 (2 queries)"
    assert recall_sentence(frame, 3) == "recall is not known for so few"


def test_few_originals_are_all_looked_for():
    frame = recall_frame(["a"], ["x", "y"], np.array([[0.1, 0.2]]), [["x", "y"]])
    assert frame.rows() == [("a", 2, 2, 2)]


def test_queries_are_drawn_alike_whoever_draws():
    ids = [f"lima_{number}" for number in range(50)]
    drawn = drawn_queries(ids, 8)
    assert drawn == drawn_queries(ids, 8) and len(set(drawn)) == 8 and drawn != ids[:8]
    assert [name for name in ids if name in drawn] == drawn, "in their order"
    assert drawn_queries(ids[:3], 8) == ids[:3]
