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


def recall_columns(candidates: Candidates) -> tuple[int, ...]:
    """The numbers k that recall is reported at."""
    most = int(candidates.counts.max(initial=0))
    return tuple(k for k in RECALL_AT if k <= 5 or k < most)


def wilson_interval(successes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % score interval of shares (Wilson 1927, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 209-212): all p with |successes / count - p| <= z sqrt(p (1 - p) / count).

    `successes` are whole numbers [M] out of `count` trials; two float64 arrays of length M come back (NaN for no trial).
    It never shrinks to a point: 12 of 12 give 0.757 to 1.
    """
    shares = np.full(len(successes), np.nan) if not count else np.asarray(successes, dtype=np.float64) / count
    square = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2 / max(count, 1)
    centre = shares + square / 2
    half = np.sqrt(square * (shares * (1 - shares) + square / 4))
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return np.where(shares == 0, 0, low), np.where(shares == 1, 1, high)  # which rounding would miss


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


def share_columns(name: str, right: np.ndarray) -> dict[str, np.ndarray]:
    """The share of `right` (bool [M, V]) in each row with its interval, as columns `name`, `name_low`, `name_high`."""
    successes, count = right.sum(axis=1), right.shape[1]
    low, high = wilson_interval(successes, count)
    with np.errstate(invalid="ignore"):
        return {name: successes / np.float64(count), f"{name}_low": low, f"{name}_high": high}


def paired_interval(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of the difference of two accuracies on the same variants: how many more the first gets right.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17, 2635-2650, method 10: Wilson's intervals of both shares, squared and added with the
    correlation of the decisions. It needs no resampling, and says something where no two decisions differ, too.

    `first` and `second` are decisions (bool [M, V]); two float64 arrays of length M come back, NaN without variants.
    """
    count = first.shape[1]
    ones, others = first.sum(axis=1).astype(np.float64), second.sum(axis=1).astype(np.float64)
    both = (first & second).sum(axis=1).astype(np.float64)
    share, other = (np.full(len(first), np.nan) if not count else right / count for right in (ones, others))
    (low, high), (other_low, other_high) = (wilson_interval(right, count) for right in (ones, others))
    # a d - b c of the table of decisions; only a positive correlation is corrected for continuity.
    product = both * (count - ones - others + both) - (ones - both) * (others - both)
    product = np.where(product > 0, np.maximum(product - count / 2, 0), product)
    scale = np.sqrt(ones * (count - ones) * others * (count - others))
    phi = np.where(scale > 0, product / np.where(scale > 0, scale, 1), 0)

    def reach(of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(of_first**2 - 2 * phi * of_first * of_second + of_second**2, 0))

    difference = share - other
    return difference - reach(share - low, other_high - other), difference + reach(high - share, other - other_low)


def paired_columns(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """By how much the first of two paired decisions (bool [M, V]) is right more often: `difference` with its interval."""
    low, high = paired_interval(first, second)
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
