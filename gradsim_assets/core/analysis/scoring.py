"""How rankings are scored: accuracy, MRR, recall, their intervals, ties."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import polars as pl

from gradsim_assets.core.components import component_columns
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.similarity.pair_products import Candidates, PairProducts

#: Numbers k of `recall_at_k`; those above 5 only where there are more candidates than that.
RECALL_AT = (2, 3, 4, 5, 10, 20, 50, 100)
RESAMPLES = 2000
CONFIDENCE = 0.95

#: How many standard errors an interval of one figure by itself reaches to either side.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

#: Draws of the largest of many deviations: of 4,000 the 95 % quantile lies between the 94.3 and the 95.7 % one.
DRAWS = 4000


def recall_columns(candidates: Candidates) -> tuple[int, ...]:
    """The numbers k that recall is reported at."""
    most = int(candidates.counts.max(initial=0))
    return tuple(k for k in RECALL_AT if k <= 5 or k < most)


def wilson_interval(successes: np.ndarray, count: int, z: float = Z) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % score interval of shares (Wilson 1927, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 209-212): all p with |successes / count - p| <= z sqrt(p (1 - p) / count).

    `successes` are whole numbers [M] out of `count` trials; two float64 arrays of length M come back (NaN for no trial).
    `z` is that of `critical_value` where the interval is to hold for all of many shares at once. It never shrinks to a point: 12 of 12 give 0.757 to 1.
    """
    shares = np.full(len(successes), np.nan) if not count else np.asarray(successes, dtype=np.float64) / count
    square = z**2 / max(count, 1)
    centre = shares + square / 2
    half = np.sqrt(square * (shares * (1 - shares) + square / 4))
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return np.where(shares == 0, 0, low), np.where(shares == 1, 1, high)  # which rounding would miss


def critical_value(values: np.ndarray) -> float:
    """By how many standard errors the means of M rows may lie from what they estimate, so that with 95 % none lies further.

    It takes the place of 1.96 where a row was picked out of many for its mean: whichever is picked, an interval that reaches so
    far holds for it. This is the single-step maximum statistic (Westfall and Young 1993, "Resampling-based multiple testing",
    chapter 2; its normal approximation by Hothorn, Bretz and Westfall 2008): the 95 % quantile of the largest of M standard
    normal deviations that are correlated as the rows are over the variants. Rows without spread, of which correlations say
    nothing, count as independent, which is the careful side. With M rows alike it is 1.96, with M independent ones Sidak's.

    `values` is [M, V], such as decisions.
    """
    rows, count = values.shape
    centred = values - values.mean(axis=1, keepdims=True) if count else np.zeros((rows, 0))
    length = np.sqrt((centred**2).sum(axis=1))
    spread = length > 1e-12 * max(count, 1)
    directions = (centred[spread] / length[spread, None]).T
    rng = np.random.default_rng(stable_seed("largest deviation", rows, count))
    largest = np.abs(rng.standard_normal((DRAWS, rows - int(spread.sum())))).max(axis=1, initial=0)
    at_once = max(1, 2**22 // max(count, 1))  # draws, of 32 MB
    for start in range(0, DRAWS if spread.any() else 0, at_once):
        part = slice(start, min(start + at_once, DRAWS))
        drawn = rng.standard_normal((part.stop - start, count)) @ directions
        largest[part] = np.maximum(largest[part], np.abs(drawn).max(axis=1))
    return max(Z, float(np.quantile(largest, CONFIDENCE)))


def resampled(count: int) -> np.ndarray:
    """Bootstrap weights of `count` variants, float64 [RESAMPLES, count]: how often each resample holds each of them.

    They depend on the count alone, so that equal figures have equal intervals.
    """
    rng = np.random.default_rng(stable_seed("bootstrap", count))
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def percentile_interval(figures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle 95 % of a figure over resamples, float64 [M, RESAMPLES]; two arrays of length M."""
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return low, high


def bootstrap_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over variants (Efron 1979): the 95 % interval of each row's mean.

    `values` is [M, V]; two float64 arrays of length M come back, NaN where all values of a row are equal (or there is
    none): resampling them says nothing of how far others might lie.
    """
    count = values.shape[1]
    if not count:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    low, high = percentile_interval(values.astype(np.float64) @ resampled(count).T / count)
    spread = values.min(axis=1) < values.max(axis=1)
    return np.where(spread, low, np.nan), np.where(spread, high, np.nan)


def retrieval_columns(ranks: np.ndarray, recall_at: Sequence[int]) -> dict[str, np.ndarray]:
    """Accuracy, MRR and recall with their intervals from the ranks [M, V] of own originals; NaN for V = 0."""
    columns = share_columns("accuracy", ranks == 1)
    reciprocal = 1 / ranks
    with np.errstate(invalid="ignore"):
        columns["mrr"] = reciprocal.sum(axis=1) / np.float64(ranks.shape[1])
    columns["mrr_low"], columns["mrr_high"] = bootstrap_interval(reciprocal)
    for k in recall_at:
        columns |= share_columns(f"recall_at_{k}", ranks <= k)
    return columns


def best_columns(ranks: np.ndarray, best: int, recall_at: Sequence[int]) -> dict[str, float]:
    """The columns of `retrieval_columns` for one row of the ranks [M, V], which was picked out of them for its accuracy.

    The figures are those of that row; their intervals are for all rows at once (`critical_value`), so that they hold for whichever
    was picked: Wilson's for shares; for MRR the mean with so many standard errors, NaN without spread.
    """
    count = ranks.shape[1]
    columns = _best_share("accuracy", ranks == 1, best)
    reciprocal = 1 / ranks
    own = reciprocal[best]
    mean, spread = (float(own.mean()), float(own.std(ddof=1))) if count > 1 else (float(own.sum()), 0.0)
    half = critical_value(reciprocal) * spread / np.sqrt(count) if spread > 0 else np.nan
    columns |= {"mrr": mean, "mrr_low": max(0.0, mean - half), "mrr_high": min(1.0, mean + half)}
    if not spread > 0:
        columns |= {"mrr_low": np.nan, "mrr_high": np.nan}
    for k in recall_at:
        columns |= _best_share(f"recall_at_{k}", ranks <= k, best)
    return columns


def _best_share(name: str, right: np.ndarray, best: int) -> dict[str, float]:
    found = share_columns(name, right[best : best + 1], critical_value(right))
    return {column: float(values[0]) for column, values in found.items()}


def share_columns(name: str, right: np.ndarray, z: float = Z) -> dict[str, np.ndarray]:
    """The share of `right` (bool [M, V]) in each row with its interval, as columns `name`, `name_low`, `name_high`."""
    successes, count = right.sum(axis=1), right.shape[1]
    low, high = wilson_interval(successes, count, z)
    with np.errstate(invalid="ignore"):
        return {name: successes / np.float64(count), f"{name}_low": low, f"{name}_high": high}


def paired_interval(first: np.ndarray, second: np.ndarray, z: float = Z) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of the difference of two accuracies on the same variants: how many more the first gets right.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17, 2635-2650, method 10: Wilson's intervals of both shares, squared and added with the
    correlation of the decisions. It needs no resampling, and says something where no two decisions differ, too.

    `first` and `second` are decisions (bool [M, V]); two float64 arrays of length M come back, NaN without variants. `z` as in
    `wilson_interval`.
    """
    count = first.shape[1]
    ones, others = first.sum(axis=1).astype(np.float64), second.sum(axis=1).astype(np.float64)
    both = (first & second).sum(axis=1).astype(np.float64)
    share, other = (np.full(len(first), np.nan) if not count else right / count for right in (ones, others))
    (low, high), (other_low, other_high) = (wilson_interval(right, count, z) for right in (ones, others))
    # a d - b c of the table of decisions; only a positive correlation is corrected for continuity.
    product = both * (count - ones - others + both) - (ones - both) * (others - both)
    product = np.where(product > 0, np.maximum(product - count / 2, 0), product)
    scale = np.sqrt(ones * (count - ones) * others * (count - others))
    phi = np.where(scale > 0, product / np.where(scale > 0, scale, 1), 0)

    def reach(of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(of_first**2 - 2 * phi * of_first * of_second + of_second**2, 0))

    difference = share - other
    return difference - reach(share - low, other_high - other), difference + reach(high - share, other - other_low)


def paired_columns(first: np.ndarray, second: np.ndarray, z: float = Z) -> dict[str, np.ndarray]:
    """By how much the first of two paired decisions (bool [M, V]) is right more often: `difference` with its interval."""
    low, high = paired_interval(first, second, z)
    with np.errstate(invalid="ignore"):
        difference = (first.sum(axis=1) - second.sum(axis=1)) / np.float64(first.shape[1])
    return {"difference": difference, "difference_low": low, "difference_high": high}


def tie_order(components: Sequence[str], parameters: pl.DataFrame | None) -> np.ndarray:
    """Indices of components from the one that wins ties to the one that loses them: smaller, then in model order.

    A component of unknown size comes after all of known size.
    """
    sizes = component_columns(components, parameters)["parameters"].to_list()
    key = [(size is None, size or 0, place) for place, size in enumerate(sizes)]
    return np.array(sorted(range(len(key)), key=key.__getitem__), dtype=np.int64)


def best_component(
    pairs: PairProducts, parameters: pl.DataFrame | None = None, variants: np.ndarray | None = None
) -> int | None:
    """Index of the component with the highest accuracy; ties go to the smaller one, then to model order.

    `variants` are the indices of those that it is chosen on; None for all.
    """
    if not pairs.components:
        return None
    order = tie_order(pairs.components, parameters)
    right = (pairs.ranks == 1)[:, slice(None) if variants is None else variants]
    return int(order[np.argmax(right.sum(axis=1)[order])])
