"""`retrieval`: how well every method finds the own original of each variant, with paired tests against the full gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import (
    best_columns,
    best_component,
    critical_value,
    paired_columns,
    recall_columns,
    retrieval_columns,
    share_columns,
)
from gradsim_assets.core.datasets.text_overlap import overlaps
from gradsim_assets.core.samples import samples_of
from gradsim_assets.core.similarity.pair_products import Candidates, PairProducts, cosine, preconditioned_terms, rho
from gradsim_assets.core.tables import schemas


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact McNemar test (McNemar 1947) of two paired decisions (bool [V]): two-sided binomial p-value.

    Under the null hypothesis the variants on which exactly one is right fall to either side like a fair coin; without
    any such variant there is nothing to test and the p-value is 1. Summed here in exact integers: SciPy would be 143 MB
    of every image for this one sum.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    tosses = only_first + only_second
    ways = tail = 1  # to choose k of the tosses, and summed over k
    for k in range(min(only_first, only_second)):
        ways = ways * (tosses - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)


def order_as_bm25(pairs: PairProducts) -> pl.DataFrame:
    """A stand-in for `bm25_candidates` where the scores are unknown: candidates stand in BM25 order, without ties."""
    frame = pairs.candidates.frame
    rank = pl.int_range(1, pl.len() + 1).over("variant_id").cast(pl.Int32)
    return schemas.BM25_CANDIDATES.enforce(
        frame.with_columns(rank.alias("rank")).with_columns(
            (-pl.col("rank")).cast(pl.Float64).alias("score"), forced=pl.lit(False), zero_score=pl.lit(False)
        )
    )


def text_overlap(candidates: Candidates, variants: pl.DataFrame, originals: pl.DataFrame) -> np.ndarray:
    """How much of each candidate's answer the variant's answer repeats, chrF2 as `overlaps` has it: float64 of length P.

    `variants` and `originals` are dataset tables. NaN for a pair of which one text is not there.
    """
    answers, known = ({one.id: one.assistant for one in samples_of(frame)} for frame in (variants, originals))
    answer = _places(answers, np.asarray(candidates.variants, dtype=object)[candidates.variant])
    original = _places(known, candidates.originals)
    found = np.full(len(answer), np.nan)
    there = (answer >= 0) & (original >= 0)
    found[there] = overlaps(list(answers.values()), list(known.values()), answer[there], original[there])
    return found


def _places(known: Mapping[str, str], names: np.ndarray) -> np.ndarray:
    """The place of each name among those that are known, -1 for others (int64)."""
    places = {name: number for number, name in enumerate(known)}
    return np.array([places.get(name, -1) for name in names], dtype=np.int64)


@dataclass(frozen=True)
class Method:
    """One row of the retrieval table: the similarities of the P pairs under one method."""

    name: str
    similarity: np.ndarray
    is_cosine: bool = True
    component: str | None = None


def methods(
    pairs: PairProducts,
    projected: pl.DataFrame | None = None,
    bm25: pl.DataFrame | None = None,
    parameters: pl.DataFrame | None = None,
    overlap: np.ndarray | None = None,
    preconditioned: pl.DataFrame | None = None,
    tracin: pl.DataFrame | None = None,
) -> list[Method]:
    """The methods of the retrieval table in order, without chance; those whose scores are None are left out."""
    result = [Method(schemas.FULL_GRADIENT, pairs.full_similarity)]
    under = preconditioned_terms(pairs.candidates, preconditioned)
    result += [Method(name, cosine(*terms)) for name, terms in under.items()]
    result += projection_methods(pairs.candidates, projected)
    if bm25 is not None:
        result.append(Method("bm25", pairs.candidates.align(bm25, "score"), is_cosine=False))
    if overlap is not None:
        result.append(Method(schemas.TEXT_OVERLAP, overlap, is_cosine=False))
    if tracin is not None and len(tracin):
        result.append(Method("tracin", pairs.candidates.align(tracin, "score"), is_cosine=False))
        result.append(Method("tracin_normalised", pairs.candidates.align(tracin, "normalised")))
    best = best_component(pairs, parameters)
    if best is not None:
        result.append(Method("best_component", pairs.similarity[best], component=pairs.components[best]))
    return result


def projection_methods(candidates: Candidates, projected: pl.DataFrame | None) -> list[Method]:
    """One method per projection, smallest first; one of unknown proportion is named by its dimension."""
    if projected is None or not len(projected):
        return []
    result = []
    for (proportion, dimension), rows in projected.partition_by("proportion", "dimension", as_dict=True).items():
        name = f"projection_{dimension}d" if proportion is None else f"projection_{proportion:g}"
        result.append((dimension, Method(name, candidates.align(rows, "similarity"))))
    return [method for _, method in sorted(result, key=lambda item: item[0])]


def retrieval(
    pairs: PairProducts,
    projected: pl.DataFrame | None = None,
    bm25: pl.DataFrame | None = None,
    parameters: pl.DataFrame | None = None,
    verbatim: Mapping[str, bool] | None = None,
    overlap: np.ndarray | None = None,
    preconditioned: pl.DataFrame | None = None,
    tracin: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The table `retrieval`: full gradient, preconditioners, projections, BM25, text overlap, sums over checkpoints, best component
    and chance.

    All methods are scored on the variants and candidates of the dot products. `bm25` is the table `bm25_candidates`;
    `overlap` is that of `text_overlap`; `verbatim` says by variant whether its answer is a copy of its original's, None
    where that is not known, `preconditioned` is the table `preconditioned_products`, `tracin` the one of that name. For chance
    all figures are expectations, and its intervals and test are null. The best component is chosen on the same variants
    that it is scored on: its intervals are those for all components at once and its p-value is multiplied by their number
    (Bonferroni), so that both hold whichever was chosen, while the figures themselves are optimistic (see `greedy_selection` for
    held-out ones).
    """
    rows = methods(pairs, projected, bm25, parameters, overlap, preconditioned, tracin)
    candidates = pairs.candidates
    ranks = np.array([candidates.ranks(method.similarity) for method in rows])
    recall_at = recall_columns(candidates)
    columns: dict[str, list] = {name: values.tolist() for name, values in retrieval_columns(ranks, recall_at).items()}
    best = [candidates.best(m.similarity) if m.is_cosine else np.full(0, np.nan) for m in rows]
    defined = [values[~np.isnan(values)] for values in best]
    columns["mean_best_similarity"] = [float(v.mean()) if len(v) else None for v in defined]
    columns["median_best_similarity"] = [float(np.median(v)) if len(v) else None for v in defined]
    correct = ranks == 1
    columns["wrong"] = (~correct).sum(axis=1).astype(float).tolist()
    columns["only_this_right"] = (correct & ~correct[0]).sum(axis=1).tolist()
    columns["only_full_gradient_right"] = (correct[0] & ~correct).sum(axis=1).tolist()
    columns["p_value"] = [None, *(mcnemar(correct[0], row) for row in correct[1:])]
    ahead = paired_columns(np.repeat(correct[:1], len(rows) - 1, axis=0), correct[1:])
    columns |= {name: [None, *values.tolist()] for name, values in ahead.items()}
    if rows[-1].component is not None:
        chosen = pairs.components.index(rows[-1].component)
        for name, value in _of_best(pairs.ranks, chosen, correct[0], recall_at).items():
            columns[name][-1] = value
        columns["p_value"][-1] = min(1.0, columns["p_value"][-1] * len(pairs.components))
    columns["agreement"] = [rho(m.similarity, pairs.full_similarity) if m.is_cosine else None for m in rows]
    columns["component"] = [method.component for method in rows]
    chance = chance_row(candidates, recall_at)
    frame = pl.DataFrame(
        {
            "method": [*(method.name for method in rows), "chance"],
            "variants": [len(candidates.variants)] * (len(rows) + 1),
            **{
                name: [None if _is_nan(value) else value for value in (*values, chance.get(name))]
                for name, values in columns.items()
            },
        }
    )
    by_copy = _by_copy(correct, candidates, verbatim, pairs.ranks == 1 if rows[-1].component is not None else None)
    return schemas.RETRIEVAL.enforce(frame.with_columns(by_copy))


def _of_best(ranks: np.ndarray, chosen: int, full: np.ndarray, recall_at: Sequence[int]) -> dict[str, float]:
    """The columns of the component that was chosen among all rows of the ranks [C, V], beside the decisions (bool [V]) of the full
    gradient; with intervals that hold whichever was chosen."""
    right = ranks == 1
    differences = full.astype(float) - right
    ahead = paired_columns(full[None], right[chosen : chosen + 1], critical_value(differences))
    return best_columns(ranks, chosen, recall_at) | {name: float(values[0]) for name, values in ahead.items()}


def _by_copy(
    correct: np.ndarray, candidates: Candidates, verbatim: Mapping[str, bool] | None, among: np.ndarray | None
) -> list[pl.Series]:
    """Accuracy on the variants whose answer is a copy, and on the others: for each row of `correct` (bool [M, V]), then for
    chance; null where that is not known or there are none. The last row was chosen `among` others (bool [C, V]), if any.
    """
    copied = [(verbatim or {}).get(variant) for variant in candidates.variants]
    series = []
    for name, which in (("verbatim", True), ("not_verbatim", False)):
        chosen = np.array([one is which for one in copied], dtype=bool)
        count = None if verbatim is None else int(chosen.sum())
        series.append(pl.Series(f"variants_{name}", [count] * (len(correct) + 1), dtype=pl.Int64))
        guessed = _guessed(candidates)[chosen]
        shares = share_columns(f"accuracy_{name}", correct[:, chosen])
        if among is not None and chosen.any():
            best = share_columns(f"accuracy_{name}", correct[-1:, chosen], critical_value(among[:, chosen]))
            shares = {column: np.append(values[:-1], best[column]) for column, values in shares.items()}
        for column, values in shares.items():
            chance = guessed.mean() if len(guessed) and column == f"accuracy_{name}" else np.nan
            series.append(pl.Series(column, np.append(values, chance), nan_to_null=True))
    return series


def _guessed(candidates: Candidates) -> np.ndarray:
    """How often a random order puts each variant's own original first (float64, length V)."""
    return np.where(candidates.has_own, 1 / candidates.counts, 0)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and np.isnan(value)


def chance_row(candidates: Candidates, recall_at: Sequence[int]) -> dict[str, float]:
    """Expected figures of a uniformly random order of each variant's candidates; empty without variants."""
    count = len(candidates.variants)
    if not count:
        return {}
    sizes = candidates.counts
    has_own = candidates.has_own
    harmonic = np.cumsum(1 / np.arange(1, sizes.max() + 1))
    accuracy = _guessed(candidates)
    row = {
        "accuracy": float(accuracy.mean()),
        "mrr": float(np.where(has_own, harmonic[sizes - 1] / sizes, 0).mean()),
        "wrong": float(count - accuracy.sum()),
    }
    for k in recall_at:
        row[f"recall_at_{k}"] = float(np.where(has_own, np.minimum(k, sizes) / sizes, 0).mean())
    return row
