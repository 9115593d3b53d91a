"""How rankings are scored: accuracy, MRR, recall, their intervals, ties."""

from collections.abc import Sequence

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


def bootstrap_interval(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over variants: the 95 % interval of each row's mean.

    `correct` is [M, V]; two float64 arrays of length M come back (NaN for V = 0). All rows share their resamples,
    which depend on V alone, so equal rows have equal intervals.
    """
    count = correct.shape[1]
    if not count:
        return np.full(len(correct), np.nan), np.full(len(correct), np.nan)
    rng = np.random.default_rng(stable_seed("bootstrap", count))
    weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    means = correct.astype(np.float64) @ weights.T.astype(np.float64) / count
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return low, high


def retrieval_columns(ranks: np.ndarray, recall_at: Sequence[int]) -> dict[str, np.ndarray]:
    """Accuracy with its interval, MRR and recall from the ranks [M, V] of own originals; NaN for V = 0."""
    correct = ranks == 1
    low, high = bootstrap_interval(correct)
    count = ranks.shape[1]
    with np.errstate(invalid="ignore"):
        columns = {
            "accuracy": correct.sum(axis=1) / np.float64(count),
            "accuracy_low": low,
            "accuracy_high": high,
            "mrr": (1 / ranks).sum(axis=1) / np.float64(count),
        }
        for k in recall_at:
            columns[f"recall_at_{k}"] = (ranks <= k).sum(axis=1) / np.float64(count)
    return columns


def tie_order(components: Sequence[str], parameters: pl.DataFrame | None) -> np.ndarray:
    """Indices of components from the one that wins ties to the one that loses them: smaller, then in model order.

    A component of unknown size comes after all of known size.
    """
    sizes = component_columns(components, parameters)["parameters"].to_list()
    key = [(size is None, size or 0, place) for place, size in enumerate(sizes)]
    return np.array(sorted(range(len(key)), key=key.__getitem__), dtype=np.int64)


def best_component(pairs: PairProducts, parameters: pl.DataFrame | None = None) -> int | None:
    """Index of the component with the highest accuracy; ties go to the smaller one, then to model order."""
    if not pairs.components:
        return None
    order = tie_order(pairs.components, parameters)
    return int(order[np.argmax((pairs.ranks == 1).sum(axis=1)[order])])
