"""`index_candidates`: the originals whose gradients are most similar to a variant's by the index of the model."""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.candidates.bm25 import Index, Tokens
from gradsim_assets.core.samples import samples_of
from gradsim_assets.core.tables.schemas import INDEX_CANDIDATES

#: Products in fp32 are off by less: whoever is that near to the last candidate is compared in float64.
_NEAR = 1e-3


class Nearest:
    """The k best originals of V variants, kept while the sketches of the originals go by in their order.

    Exact for the sketches, with ties by the order of the originals, so that what is found depends on neither the other variants
    nor on the parts in which the sketches come. (FAISS, in which traces look, leaves ties to its threads.)
    """

    def __init__(self, variants: Sequence[str], sketches: np.ndarray, k: int) -> None:
        """`sketches` are those of the variants, of length 1: fp32 [V, d]."""
        self.variants, self.k = list(variants), k
        self._sketches = sketches
        self._names: list[str] = []
        self._places = [np.empty(0, np.int64) for _ in variants]
        self._scores = [np.empty(0) for _ in variants]
        #: By variant the place of its own original and the score of that, once it has gone by.
        self._own: dict[int, tuple[int, float]] = {}

    def see(self, names: Sequence[str], sketches: np.ndarray) -> None:
        """Takes the next originals with their sketches, fp32 [n, d]."""
        start, place = len(self._names), {name: number for number, name in enumerate(names)}
        self._names += names
        rough = sketches @ self._sketches.T
        for variant, name in enumerate(self.variants):
            if name in place:
                own = place[name]
                self._own[variant] = start + own, float(self._exact(variant, sketches[own : own + 1])[0])
            near = np.flatnonzero(rough[:, variant] >= self._least(variant, rough[:, variant]) - _NEAR)
            self._keep(variant, start + near, self._exact(variant, sketches[near]))

    def _least(self, variant: int, rough: np.ndarray) -> float:
        """The score that the last candidate has at least."""
        known = self._scores[variant]
        least = [float(known[-1])] if len(known) == self.k else []
        if len(rough) >= self.k:
            least.append(float(np.partition(rough, -self.k)[-self.k]))
        return max(least, default=-np.inf)

    def _exact(self, variant: int, sketches: np.ndarray) -> np.ndarray:
        # Row by row, so that a sum does not depend on how many rows there are.
        return (sketches.astype(np.float64) * self._sketches[variant].astype(np.float64)).sum(axis=1)

    def _keep(self, variant: int, places: np.ndarray, scores: np.ndarray) -> None:
        places = np.concatenate([self._places[variant], places])
        scores = np.concatenate([self._scores[variant], scores])
        best = np.lexsort((places, -scores))[: self.k]
        self._places[variant], self._scores[variant] = places[best], scores[best]

    def found(self) -> list[list[tuple[str, float, bool]]]:
        """For each variant (original, score, whether it is forced), best first.

        The own original is always among them, in place of the last where it would be missing, unless the index does not hold it.
        """
        return [self._of(variant) for variant in range(len(self.variants))]

    def _of(self, variant: int) -> list[tuple[str, float, bool]]:
        pairs = zip(self._places[variant].tolist(), self._scores[variant].tolist(), strict=True)
        rows = [(self._names[place], score, False) for place, score in pairs]
        own = self._own.get(variant)
        if own is not None and own[0] not in self._places[variant]:
            rows[-1] = (self.variants[variant], own[1], True)
        return rows


def index_candidates(
    variants: Sequence[str],
    sketches: np.ndarray,
    index: Iterable[tuple[Sequence[str], np.ndarray]],
    k: int,
    texts: pl.DataFrame,
    originals: pl.DataFrame,
    tokens: Tokens = str.split,
) -> pl.DataFrame:
    """The table `index_candidates`: every variant in order with its candidates by rank.

    Args:
        variants: ids of the V variants.
        sketches: those of the variants' gradients, of length 1, fp32 [V, d].
        index: ids and sketches (fp32 [n, d]) of originals, a part at a time, in the order of the originals.
        k: how many candidates a variant has (all, where there are no more originals).
        texts: the dataset table of the variants, whose user texts BM25 compares.
        originals: the table `lima`, all of which BM25 ranks.
        tokens: what BM25 counts.
    """
    nearest = Nearest(variants, sketches, k)
    for names, part in index:
        nearest.see(names, part)
    corpus = samples_of(originals)
    words, place = Index([one.user for one in corpus], tokens), {one.id: number for number, one in enumerate(corpus)}
    asked = {one.id: one.user for one in samples_of(texts)}
    rows = []
    for variant, found in zip(variants, nearest.found(), strict=True):
        scores = words.scores(asked[variant])
        ranks = np.empty(len(scores), np.int64)
        ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        for rank, (name, score, forced) in enumerate(found, 1):
            there = place[name]
            rows.append((variant, name, rank, score, forced, float(scores[there]), int(ranks[there])))
    return INDEX_CANDIDATES.enforce(pl.DataFrame(rows, schema=INDEX_CANDIDATES.empty().schema, orient="row"))


def choice_of(frame: pl.DataFrame) -> pl.DataFrame:
    """What of the table `index_candidates` other tables are made from: all but the last digits of sketches."""
    return frame.drop("score")
