"""`linear_datamodeling_score`: whether the sum of a method's scores over a subset predicts what training on it does.

Park et al. 2023, "TRAK: Attributing Model Behavior at Scale", section 2 (definition 2.2): the Spearman correlation, over random
subsets of the training set, between the sum of a sample's scores with the members and what the model trained on them outputs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import CONFIDENCE
from gradsim_assets.core.evaluation.methods import Method
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.tables.schemas import LINEAR_DATAMODELING_SCORE

RESAMPLES = 1000

#: Resamples that are worked on at a time.
_AT_A_TIME = 25


@dataclass(frozen=True)
class _Sorted:
    """Rows of values in order: int64 [V, S] each, the order, and where the values equal to each begin and end in it."""

    order: np.ndarray
    first: np.ndarray
    behind: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "_Sorted":
        order = np.argsort(values, axis=1, kind="stable")
        ordered = np.take_along_axis(values, order, axis=1)
        places = np.arange(values.shape[1])
        changes = np.diff(ordered, axis=1) != 0
        edge = np.ones((len(values), 1), dtype=bool)
        begins, ends = np.hstack([edge, changes]), np.hstack([changes, edge])
        first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
        behind = np.minimum.accumulate(np.where(ends, places + 1, len(places))[:, ::-1], axis=1)[:, ::-1]
        return cls(order, first, behind)

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """Mean ranks [B, V, S] where each column counts as often as `weights` (float64 [B, S]) say."""
        taken = weights[:, self.order]
        counts = np.concatenate([np.zeros((*taken.shape[:2], 1)), np.cumsum(taken, axis=2)], axis=2)
        first, behind = (np.broadcast_to(one, taken.shape) for one in (self.first, self.behind))
        ordered = (np.take_along_axis(counts, first, 2) + np.take_along_axis(counts, behind, 2) + 1) / 2
        found = np.empty_like(ordered)
        np.put_along_axis(found, np.broadcast_to(self.order, taken.shape), ordered, 2)
        return found


def _correlations(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r [B, V] of two arrays [B, V, S] under weights [B, S]; 0 where one of them is constant: it predicts nothing."""
    counts = weights[:, None, :]  # whole numbers, and ranks are halves: the mean of equal ranks is exactly one of them
    total = counts.sum(axis=2, keepdims=True)
    first, second = (one - (one * counts).sum(axis=2, keepdims=True) / total for one in (first, second))
    squares = (first**2 * counts).sum(axis=2) * (second**2 * counts).sum(axis=2)
    product = (first * second * counts).sum(axis=2)
    return np.divide(product, np.sqrt(squares), out=np.zeros_like(product), where=squares > 0)


def spearman(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row of two arrays [V, S], ties by mean ranks; 0 where one of the rows is constant."""
    once = np.ones((1, predicted.shape[1]))
    return _correlations(_Sorted.of(predicted).ranks(once), _Sorted.of(measured).ranks(once), once)[0]


def _resamples(variants: int, subsets: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample holds each variant [B, V] and each subset [B, S], both drawn with replacement."""
    rng = np.random.default_rng(stable_seed("linear_datamodeling_score", variants, subsets))
    drawn = (rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) for count in (variants, subsets))
    of_variants, of_subsets = (one.astype(np.float64) for one in drawn)
    return of_variants, of_subsets


@dataclass(frozen=True)
class Score:
    """A linear datamodelling score with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def scores_of(predictions: Iterable[np.ndarray], measured: np.ndarray) -> Iterator[Score]:
    """The score of each method, from its predictions [V, S] and the negative losses [V, S].

    The interval is a bootstrap over variants and subsets at once (Owen 2007, "The pigeonhole bootstrap"): other variants and
    other subsets would have come out within it. A resample holds subsets twice, which share their rank, so that all its
    correlations are lower than those of distinct subsets; its percentiles are moved by what its median is off.
    """
    variants, subsets = _resamples(*measured.shape)
    truth = _Sorted.of(measured)
    for predicted in predictions:
        found, sorted_by = np.empty(RESAMPLES), _Sorted.of(predicted)
        for start in range(0, RESAMPLES, _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            rows = _correlations(sorted_by.ranks(subsets[part]), truth.ranks(subsets[part]), subsets[part])
            found[part] = (rows * variants[part]).sum(axis=1) / variants[part].sum(axis=1)
        value = float(spearman(predicted, measured).mean())
        low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) + (value - np.median(found))
        yield Score(value, max(float(low), -1.0), min(float(high), 1.0))


def linear_datamodeling_score(methods: Iterable[Method], members: np.ndarray, losses: np.ndarray) -> pl.DataFrame:
    """The table `linear_datamodeling_score`: a row for every method.

    `members` (bool [S, O]) says which originals each subset holds, `losses` (float64 [V, S]) what the model retrained on it
    thinks of each variant. A score that is undefined counts as 0.
    """
    named = list(methods)
    predictions = (np.nan_to_num(one.scores(), nan=0.0) @ members.T.astype(np.float64) for one in named)
    rows = [
        (one.name, one.component, found.value, found.low, found.high, members.shape[0], losses.shape[0])
        for one, found in zip(named, scores_of(predictions, -losses), strict=True)
    ]
    names = list(LINEAR_DATAMODELING_SCORE.columns)
    return LINEAR_DATAMODELING_SCORE.enforce(
        pl.DataFrame(rows, schema={name: LINEAR_DATAMODELING_SCORE.columns[name].dtype for name in names}, orient="row")
    )
