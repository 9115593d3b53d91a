"""Linear datamodelling scores: known answers, ties, and intervals that hold what they promise."""

import math

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.evaluation.linear_datamodeling_score import (
    _Sorted,
    linear_datamodeling_score,
    scores_of,
    spearman,
)
from gradsim_assets.core.evaluation.methods import Method


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks by their definition."""
    return np.array([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values])


def by_definition(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def halves(subsets: int, originals: int, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.random((subsets, originals)).argsort(axis=1)
    return drawn < originals // 2


def test_spearman_is_pearson_of_mean_ranks():
    rng = np.random.default_rng(0)
    predicted, measured = rng.integers(0, 6, (9, 15)).astype(float), rng.standard_normal((9, 15))
    found = spearman(predicted, measured)
    np.testing.assert_allclose(found, [by_definition(a, b) for a, b in zip(predicted, measured, strict=True)])
    assert spearman(np.ones((1, 5)), np.arange(5.0)[None]).tolist() == [0.0]


def test_a_resample_has_the_ranks_of_what_it_holds():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 5, (3, 8)).astype(float)
    weights = rng.multinomial(8, np.full(8, 1 / 8), size=4).astype(float)
    found = _Sorted.of(values).ranks(weights)
    for b, weight in enumerate(weights):
        held = np.repeat(np.arange(8), weight.astype(int))
        for v in range(3):
            np.testing.assert_allclose(found[b, v][held], ranks(values[v][held]))


def test_a_linear_model_is_recovered():
    """Losses that are exactly linear in the members are predicted exactly by their coefficients, and not at all by others."""
    rng = np.random.default_rng(2)
    members, effect = halves(40, 60, rng), rng.standard_normal((30, 60))
    losses = 3.0 - effect @ members.T
    methods = [
        Method("right", lambda: effect),
        Method("turned", lambda: -effect),
        Method("shifted", lambda: 2 * effect + 5),  # halves are equally large, so that a constant says nothing
        Method("other", lambda: rng.standard_normal((30, 60))),
        Method("constant", lambda: np.ones((30, 60))),
    ]
    found = linear_datamodeling_score(methods, members, losses)
    score = dict(found.select("method", "lds").iter_rows())
    assert score["right"] == pytest.approx(1) and score["turned"] == pytest.approx(-1)
    assert score["shifted"] == pytest.approx(1)
    assert score["constant"] == 0
    other = found.row(by_predicate=pl.col("method") == "other", named=True)
    assert other["lds_low"] < 0 < other["lds_high"]
    assert set(found["subsets"]) == {40} and set(found["variants"]) == {30}


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_the_score_of_partly_right_coefficients_is_known(r):
    """Sums over a random half are normal, so that Spearman's rho is 6/pi asin(r/2) of Pearson's r of the coefficients."""
    rng = np.random.default_rng(3)
    members = halves(80, 400, rng)
    effect = rng.standard_normal((300, 400))
    partly = r * effect + math.sqrt(1 - r**2) * rng.standard_normal((300, 400))
    (found,) = scores_of([partly @ members.T], effect @ members.T)
    # A mean of 300 correlations over 80 subsets each: a standard deviation of at most 1/sqrt(300 x 80) = 0.0065.
    assert found.value == pytest.approx(6 / math.pi * math.asin(r / 2), abs=0.02)
    assert found.low < found.value < found.high


def test_undefined_scores_count_as_nothing():
    rng = np.random.default_rng(4)
    members, effect = halves(30, 20, rng), rng.standard_normal((5, 20))
    holes = np.where(rng.random(effect.shape) < 0.2, np.nan, effect)
    losses = -np.nan_to_num(holes) @ members.T
    found = linear_datamodeling_score([Method("holes", lambda: holes)], members, losses)
    assert found["lds"][0] == pytest.approx(1)


def test_random_scores_have_an_interval_that_holds_0():
    """In at least 93 of 100 seeds, of variants whose losses go up and down together as those of a real model do."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        members = halves(24, 40, rng)
        losses = rng.standard_normal((1, 24)) + rng.standard_normal((20, 24))
        (found,) = scores_of([rng.standard_normal((20, 40)) @ members.T], losses)
        inside += found.low <= 0 <= found.high
    assert inside >= 93


def test_scores_that_all_variants_share_have_an_interval_that_holds_0_too():
    """The same subsets serve all variants: with common scores and losses there is one sample of 24, not 20 of them."""
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        members = halves(24, 40, rng)
        losses = rng.standard_normal((1, 24)) + 0.1 * rng.standard_normal((20, 24))
        scores = rng.standard_normal((1, 40)) + 0.1 * rng.standard_normal((20, 40))
        (found,) = scores_of([scores @ members.T], losses)
        inside += found.low <= 0 <= found.high
    assert inside >= 93
