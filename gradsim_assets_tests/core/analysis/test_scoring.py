"""Intervals: Wilson's against published values and its definition, the bootstrap, and what neither may say."""

import math

import numpy as np
import pytest

from gradsim_assets.core.analysis.scoring import (
    best_columns,
    bootstrap_interval,
    critical_value,
    paired_columns,
    paired_interval,
    resampled,
    retrieval_columns,
    wilson_interval,
)

#: The standard normal's 97.5 % quantile to sixteen digits.
Z = 1.959963984540054


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # Newcombe 1998 ("Two-sided confidence intervals for the single proportion", Statistics in Medicine 17), table I,
        # method 3: the score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # Where all or none are right it is n / (n + z^2) to 1, or 0 to z^2 / (n + z^2).
        (12, 12, 12 / (12 + Z * Z), 1.0),
        (72, 72, 72 / (72 + Z * Z), 1.0),
        (0, 1, 0.0, Z * Z / (1 + Z * Z)),
    ],
)
def test_wilson_gives_the_published_values(successes: int, count: int, low: float, high: float) -> None:
    found = [ends[0] for ends in wilson_interval(np.array([successes]), count)]
    assert found == pytest.approx([low, high], abs=5e-5)  # four digits are published


@pytest.mark.parametrize("count", [1, 2, 5, 12, 33, 72, 988])
def test_the_ends_are_where_the_score_test_turns(count: int) -> None:
    successes = np.arange(count + 1)
    low, high = wilson_interval(successes, count)
    shares = successes / count
    for ends in (low, high):
        # |share - p| = z sqrt(p (1 - p) / n), or the end of what a share can be.
        distance = np.abs(shares - ends) - Z * np.sqrt(ends * (1 - ends) / count)
        assert np.abs(distance[(ends > 0) & (ends < 1)]).max() < 1e-12
    assert (low <= shares).all() and (shares <= high).all() and (high - low > 0).all()
    assert low[0] == 0 and high[-1] == 1
    assert low[::-1] == pytest.approx(1 - high, abs=1e-12)


def test_wilson_covers_as_often_as_it_says() -> None:
    for share in (0.05, 0.5, 0.93):
        for count in (12, 33, 72):
            low, high = wilson_interval(np.arange(count + 1), count)
            chance = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
            covered = sum(p for p, a, b in zip(chance, low, high, strict=True) if a <= share <= b)
            # Exact coverage of a discrete variable moves around 95 %; Wilson's stays close (Brown, Cai and DasGupta 2001).
            assert 0.92 <= covered <= 0.985


def decisions(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Paired decisions of which so many are right by both, by one alone, by neither."""
    ones = [True] * (both + first) + [False] * (second + neither)
    others = [True] * both + [False] * first + [True] * second + [False] * neither
    return np.array([ones]), np.array([others])


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe 1998 ("Improved confidence intervals for the difference between binomial proportions based on paired
        # data", Statistics in Medicine 17), table II, method 10: both, only the first, only the second, neither.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((20, 12, 2, 16), 0.0562, 0.3292),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        ((0, 30, 0, 0), 0.8395, 1.0),
    ],
)
def test_the_paired_interval_gives_the_published_values(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    first, second = decisions(*table)
    assert [ends[0] for ends in paired_interval(first, second)] == pytest.approx([low, high], abs=5e-5)
    swapped = [ends[0] for ends in paired_interval(second, first)]
    assert swapped == pytest.approx([-high, -low], abs=5e-5)


def test_the_paired_interval_covers_as_often_as_it_says_and_is_narrower_where_decisions_go_together() -> None:
    rng = np.random.default_rng(0)
    for chances in ((0.7, 0.2, 0.05, 0.05), (0.4, 0.3, 0.1, 0.2), (0.9, 0.02, 0.02, 0.06)):
        drawn = rng.choice(4, p=chances, size=(2000, 72))
        low, high = paired_interval(drawn < 2, (drawn == 0) | (drawn == 2))
        covered = np.mean((low <= chances[1] - chances[2]) & (chances[1] - chances[2] <= high))
        # 2,000 draws: one standard error is 0.005; the interval is conservative where hardly any two differ.
        assert 0.93 <= covered <= 0.998
    together, apart = (paired_interval(*decisions(*table)) for table in ((40, 10, 0, 22), (25, 25, 15, 7)))
    assert together[1][0] - together[0][0] < apart[1][0] - apart[0][0]


def test_paired_figures_of_no_variant_are_undefined() -> None:
    empty = np.zeros((2, 0), dtype=bool)
    assert all(np.isnan(values).all() for values in paired_columns(empty, empty).values())


def test_no_trial_no_interval() -> None:
    low, high = wilson_interval(np.array([0, 0]), 0)
    assert np.isnan(low).all() and np.isnan(high).all()


def test_twelve_of_twelve_is_not_certain() -> None:
    columns = retrieval_columns(np.ones((1, 12)), (2, 3))
    for name in ("accuracy", "recall_at_2", "recall_at_3"):
        assert columns[name][0] == columns[f"{name}_high"][0] == 1
        assert columns[f"{name}_low"][0] == pytest.approx(0.7575, abs=5e-5)
    # Resampling twelve equal ranks would give "1 to 1" of the mean reciprocal rank: it says nothing.
    assert columns["mrr"][0] == 1
    assert np.isnan([columns["mrr_low"][0], columns["mrr_high"][0]]).all()


def test_the_bootstrap_is_that_of_its_resamples() -> None:
    values = np.random.default_rng(0).random((3, 20)) ** 2
    low, high = bootstrap_interval(values)
    for row in range(3):
        means = sorted(float(np.repeat(values[row], times.astype(int)).mean()) for times in resampled(20))
        place = 0.025 * (len(means) - 1)
        below = means[int(place)] + (place % 1) * (means[int(place) + 1] - means[int(place)])
        assert low[row] == pytest.approx(below, rel=1e-12)
        above = means[::-1][int(place)] - (place % 1) * (means[::-1][int(place)] - means[::-1][int(place) + 1])
        assert high[row] == pytest.approx(above, rel=1e-12)


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    low, high = bootstrap_interval(np.random.default_rng(1).random((400, 300)))
    # 95 % of 400 with a standard error of 1.1 %.
    assert 0.92 <= ((low <= 0.5) & (high >= 0.5)).mean() <= 0.98


def test_an_interval_depends_on_nothing_else() -> None:
    values = np.random.default_rng(2).random((3, 50))
    together, alone = bootstrap_interval(values), bootstrap_interval(values[2:])
    # Sums of one row are taken in another order than those of three.
    assert (alone[0][0], alone[1][0]) == pytest.approx((together[0][2], together[1][2]), rel=1e-14)


@pytest.mark.parametrize("values", [np.zeros((2, 0)), np.full((2, 12), 0.25), np.full((2, 1), 0.5)])
def test_values_without_spread_have_no_bootstrap_interval(values: np.ndarray) -> None:
    low, high = bootstrap_interval(values)
    assert low.shape == (2,) and np.isnan(low).all() and np.isnan(high).all()


def test_one_of_many_needs_no_more_than_itself_where_all_are_alike_and_sidaks_where_none_are() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((1, 500)) < 0.5
    assert critical_value(one) == pytest.approx(Z, abs=0.06)
    assert critical_value(np.repeat(one, 60, axis=0)) == pytest.approx(Z, abs=0.06)
    # Sidak 1967: the two-sided quantile at 1 - 0.95^(1/60). A quantile of 4,000 draws is known to 0.05 there (two sigma).
    assert critical_value(rng.random((60, 500)) < 0.5) == pytest.approx(3.337, abs=0.1)
    same = np.ones((60, 500), dtype=bool)
    assert critical_value(same) == pytest.approx(3.337, abs=0.1), (
        "of rows without spread nobody knows how alike they are"
    )
    assert critical_value(np.ones((3, 0))) > Z and critical_value(np.ones((1, 1))) == pytest.approx(Z, abs=0.06)
    alike = np.where(rng.random((60, 500)) < 0.8, one, rng.random((60, 500)) < 0.5)
    assert Z < critical_value(alike) < 3.3, "the more alike, the less is to be allowed for"
    assert critical_value(alike) == critical_value(alike.copy()), "the same decisions, the same value"


@pytest.mark.parametrize(("alike", "variants"), [(0.0, 114), (0.6, 114), (0.6, 40), (0.95, 114)])
def test_the_interval_of_the_best_holds_where_none_is_better_than_the_others(alike: float, variants: int) -> None:
    """Under the null all components find half of the originals, and the best is so by chance alone."""
    rng = np.random.default_rng(7)
    repeats, components = 300, 40
    covered = plain = 0
    for _ in range(repeats):
        common = rng.random((1, variants)) < 0.5
        right = np.where(rng.random((components, variants)) < alike, common, rng.random((components, variants)) < 0.5)
        best = int(right.sum(axis=1).argmax())
        found = best_columns(np.where(right, 1.0, 2.0), best, ())
        covered += found["accuracy_low"] <= 0.5 <= found["accuracy_high"]
        low, high = wilson_interval(right[best : best + 1].sum(axis=1), variants)
        plain += bool(low[0] <= 0.5 <= high[0])
        # With ranks 1 and 2 alone, MRR is 0.5 + accuracy / 2: its interval must hold as well.
        assert found["mrr"] == pytest.approx(0.5 + found["accuracy"] / 2)
    # 95 % of 300 is 285, with a standard deviation of 3.8; three of them below. Only the lower end is tried by the best.
    assert covered >= 285 - 12
    assert plain < covered - (60 if alike < 0.9 else 5), "each by itself does not hold for the best of many"


def test_the_best_of_one_is_that_one() -> None:
    ranks = np.array([[1.0, 1, 2, 3, 1, 1, 2, 1]])
    found, alone = best_columns(ranks, 0, (2,)), retrieval_columns(ranks, (2,))
    for name, value in found.items():
        # A quantile of draws for shares; the bootstrap's percentiles beside standard errors for MRR.
        assert value == pytest.approx(float(alone[name][0]), abs=0.08), name
    flat = best_columns(np.ones((3, 5)), 1, ())
    assert flat["accuracy"] == flat["accuracy_high"] == 1.0 and 0 < flat["accuracy_low"] < 0.57
    assert math.isnan(flat["mrr_low"]) and flat["mrr"] == 1.0
