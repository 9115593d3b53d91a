"""`greedy_selection`: greedy forward selection of components, by agreement with the full gradient or by accuracy."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import tie_order
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts, rho
from gradsim_assets.core.tables import schemas

CRITERIA = ("agreement", "accuracy")
#: Random halvings of the ids for the held-out evaluation.
SPLITS = 10
#: Values that are nearer to one another are a tie. The last rounds all come within 1e-9 of 1, where the rounding of gradients
#: (1e-7 of their lengths) would choose otherwise on every machine.
TIE = 1e-9


def greedy_selection(pairs: PairProducts, parameters: pl.DataFrame | None = None, splits: int = SPLITS) -> pl.DataFrame:
    """The table `greedy_selection`: by agreement and by accuracy, on the same ids and held out over random halves.

    `split` is 0 for `same_ids` (selected and scored on all ids), and 1..splits for `held_out`: the components are
    selected on one half of the variants and `value` is their score on the other half (`selection_value` on the first).
    The halves depend on the ids alone.
    """
    halvings = [halve(pairs.candidates.variants, number) for number in range(1, splits + 1)]
    if len(pairs.candidates.variants) < 2:
        halvings = []
    frames = [pl.DataFrame(schema=_ROUND)]
    for criterion in CRITERIA:
        for split, halves in enumerate([None, *halvings]):
            rounds = greedy_rounds(pairs, parameters, criterion, halves)
            evaluation = "held_out" if split else "same_ids"
            frames.append(
                rounds.with_columns(
                    pl.lit(criterion).alias("criterion"),
                    pl.lit(evaluation).alias("evaluation"),
                    pl.lit(split, dtype=pl.Int32).alias("split"),
                ).select(_ROUND.keys())
            )
    return schemas.GREEDY_SELECTION.enforce(pl.concat(frames))


_ROUND = {
    "criterion": pl.String,
    "evaluation": pl.String,
    "split": pl.Int32,
    "round": pl.Int32,
    "component": pl.String,
    "value": pl.Float64,
    "selection_value": pl.Float64,
    "parameter_share": pl.Float64,
}


def halve(ids: Sequence[str], split: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the selecting (the larger, for an odd number) and the scoring half of the ids, each ascending.

    An id's place depends on its own text and the split's number only, not on the order or the set of the others.
    """
    draws = [hashlib.sha256(f"{split}:{name}".encode()).digest() for name in ids]
    order = np.array(sorted(range(len(ids)), key=draws.__getitem__), dtype=np.int64)
    middle = (len(ids) + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def greedy_rounds(
    pairs: PairProducts,
    parameters: pl.DataFrame | None,
    criterion: str,
    halves: tuple[np.ndarray, np.ndarray] | None = None,
) -> pl.DataFrame:
    """One selection: round, component, value, selection_value, parameter_share.

    `halves` are the indices of the variants to select on and of those to score on; None for all in both.
    """
    everything = np.arange(len(pairs.candidates.variants))
    selecting, scoring = halves or (everything, everything)
    cells = _cells(pairs, selecting, criterion)
    order = tie_order(pairs.components, parameters)
    chosen, on_selecting = greedy(cells, order)
    values = on_selecting if halves is None else score(_cells(pairs, scoring, criterion), chosen)
    sizes = component_columns(pairs.components, parameters)["parameters"].to_list()
    total = None if None in sizes else sum(sizes)
    share = np.cumsum([sizes[c] for c in chosen]) / total if total else np.full(len(chosen), np.nan)
    return pl.DataFrame(
        {
            "round": pl.Series(range(1, len(chosen) + 1), dtype=pl.Int32),
            "component": pl.Series([pairs.components[c] for c in chosen], dtype=pl.String),
            "value": pl.Series(np.array(values, dtype=float), nan_to_null=True),
            "selection_value": pl.Series(np.array(on_selecting, dtype=float), nan_to_null=True),
            "parameter_share": pl.Series(share, dtype=pl.Float64, nan_to_null=True),
        }
    )


@dataclass(frozen=True)
class Cells:
    """The three terms [C, K, V] of some variants, own originals in slot 0, NaN where there is no candidate."""

    dot_product: np.ndarray
    variant_self: np.ndarray
    original_self: np.ndarray
    criterion: Callable[[np.ndarray], float]  # score of a set of components from its similarities [K, V]


def _cells(pairs: PairProducts, variants: np.ndarray, criterion: str) -> Cells:
    slots = pairs.candidates.slots[:, variants]
    gone = np.full((len(pairs.components), 1), np.nan)
    dot, variant, original = (
        np.ascontiguousarray(np.append(term, gone, axis=1)[:, slots])
        for term in (pairs.dot_product, pairs.variant_self, pairs.original_self)
    )
    if criterion == "accuracy":
        return Cells(dot, variant, original, _share_right)
    full = np.append(pairs.full_similarity, np.nan)[slots].ravel()
    return Cells(dot, variant, original, lambda similarity: rho(similarity.ravel(), full))


def _share_right(similarity: np.ndarray) -> float:
    if not similarity.shape[1]:
        return float("nan")
    # Starting from -inf: an undefined rival (NaN, skipped by fmax) never wins, nor does an undefined own original.
    rivals = np.full(similarity.shape[1], -np.inf)
    for row in similarity[1:]:
        np.fmax(rivals, row, out=rivals)
    return np.count_nonzero(similarity[0] > rivals) / similarity.shape[1]


class _Sums:
    """Running sums of the three terms over the chosen components, and the similarity with one component more."""

    def __init__(self, cells: Cells):
        self.terms = (cells.dot_product, cells.variant_self, cells.original_self)
        self.sums = [np.zeros(term.shape[1:]) for term in self.terms]
        self._scratch = [np.empty_like(total) for total in self.sums]

    def similarity_with(self, component: int) -> np.ndarray:
        """Similarities [K, V] (a buffer that the next call overwrites) of the chosen set with this component."""
        dot, variant, original = self._scratch
        for total, term, out in zip(self.sums, self.terms, self._scratch, strict=True):
            np.add(total, term[component], out=out)
        np.multiply(variant, original, out=variant)
        # One pass tells whether all is well; NaN compares as False, so missing terms take the careful way too.
        undefined = None if variant.size and variant.min() > 0 else ~(variant > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            np.sqrt(variant, out=variant)
            np.divide(dot, variant, out=dot)
        if undefined is not None:
            dot[undefined] = np.nan
        return dot

    def add(self, component: int) -> None:
        for total, term in zip(self.sums, self.terms, strict=True):
            total += term[component]


def greedy(cells: Cells, order: np.ndarray) -> tuple[list[int], list[float]]:
    """Components in the order of their selection, and the criterion after each round.

    `order` lists the components from the one that wins ties (see `TIE`) to the one that loses them. An undefined value loses
    against every defined one.
    """
    sums, remaining = _Sums(cells), list(order)
    chosen: list[int] = []
    values: list[float] = []
    while remaining:
        scores = [cells.criterion(sums.similarity_with(component)) for component in remaining]
        defined = np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf)
        place = int(np.argmax(defined >= defined.max() - TIE))
        values.append(scores[place])
        chosen.append(int(remaining.pop(place)))
        sums.add(chosen[-1])
    return chosen, values


def score(cells: Cells, chosen: Sequence[int]) -> list[float]:
    """The criterion after each of the rounds that chose these components."""
    return list(_curve(cells, chosen))


def _curve(cells: Cells, chosen: Sequence[int]) -> Iterator[float]:
    sums = _Sums(cells)
    for component in chosen:
        yield cells.criterion(sums.similarity_with(component))
        sums.add(component)
