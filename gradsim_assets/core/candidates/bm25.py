"""BM25 (Okapi) candidates: the originals that a variant is compared with.

Robertson et al., "Okapi at TREC-3", 1994, with the IDF of the rank-bm25 package: idf(t) = ln((N - n_t + 0.5) / (n_t +
0.5)), negative ones replaced by epsilon times the mean IDF.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rank_bm25 import BM25Okapi

from gradsim_assets.core.samples import Sample
from gradsim_assets.core.seeds import stable_seed

K1, B, EPSILON = 1.5, 0.75, 0.25

#: Cuts a text into the tokens that are counted: words, or the token ids of a model's tokenizer.
Tokens = Callable[[str], Sequence[Hashable]]

#: Who gets the places that only originals of score 0 could take: a seeded draw, or (as the predecessor) the first ones.
ZeroScores = Literal["random", "corpus_order"]


@dataclass(frozen=True)
class Candidate:
    """One original for one variant.

    Attributes:
        index: of the original.
        rank: from 1.
        score: of BM25.
        forced: the own original, in place of the last candidate.
        zero_score: BM25 knows nothing of it (its score is 0), so that its place says nothing; not so if it is forced.
    """

    index: int
    rank: int
    score: float
    forced: bool
    zero_score: bool


class Index:
    """An inverted index over the user texts of the originals.

    rank-bm25 gives the statistics; scores add up its formula token by token of the query, in the same order, so they
    equal its own to the last bit, but only documents that hold the token are visited.
    """

    def __init__(self, documents: Sequence[str], tokens: Tokens = str.split) -> None:
        self._tokens = tokens
        self.size = len(documents)
        okapi = BM25Okapi([tokens(document) for document in documents], k1=K1, b=B, epsilon=EPSILON)
        norms = K1 * (1 - B + B * np.array(okapi.doc_len) / okapi.avgdl)
        postings: dict[Hashable, tuple[list[int], list[int]]] = {}
        for number, frequencies in enumerate(okapi.doc_freqs):
            for token, count in frequencies.items():
                numbers, counts = postings.setdefault(token, ([], []))
                numbers.append(number)
                counts.append(count)
        self._weights: dict[Hashable, tuple[np.ndarray, np.ndarray]] = {}
        for token, (numbers, counts) in postings.items():
            found, frequency = np.array(numbers), np.array(counts)
            self._weights[token] = (found, okapi.idf[token] * (frequency * (K1 + 1) / (frequency + norms[found])))

    def scores(self, query: str) -> np.ndarray:
        """BM25 scores, float64 [documents]; a token that occurs twice in the query counts twice."""
        scores = np.zeros(self.size)
        for token in self._tokens(query):
            if token in self._weights:
                found, weights = self._weights[token]
                scores[found] += weights
        return scores

    def candidates(
        self, query: str, truth: int, k: int | None, zero_places: np.ndarray | None = None
    ) -> list[Candidate]:
        """The k best documents (None: all), best first, ties by corpus order; the truth is always among them.

        `zero_places` (int64 [documents]) orders the documents of score 0 among themselves; None leaves them in corpus
        order. The order does not depend on k, so that fewer candidates are the first of more.
        """
        scores = self.scores(query)
        places = np.arange(self.size)
        if zero_places is not None:
            places = np.where(scores == 0, zero_places, places)
        order = np.lexsort((places, -scores))[:k].tolist()
        forced = truth not in order
        if forced:
            order[-1] = truth
        found = []
        for rank, index in enumerate(order, 1):
            score, instead = float(scores[index]), forced and rank == len(order)
            found.append(Candidate(index, rank, score, instead, zero_score=score == 0 and not instead))
        return found


class Retriever:
    """Finds the candidates of variants among the originals by their user texts."""

    def __init__(
        self, originals: Sequence[Sample], tokens: Tokens = str.split, zero_scores: ZeroScores = "random"
    ) -> None:
        self._index = Index([original.user for original in originals], tokens)
        self._place = {original.id: place for place, original in enumerate(originals)}
        # By id: the set of the originals decides a draw, not the order in which a file has them.
        self._by_id = [self._place[name] for name in sorted(self._place)] if zero_scores == "random" else None

    def candidates(self, variant: Sample, k: int | None) -> list[Candidate]:
        """The k best originals for a variant (None: all), as `Index.candidates`; its own original is the truth."""
        return self._index.candidates(variant.user, self._place[variant.id], k, self._draw(variant.id))

    def _draw(self, variant: str) -> np.ndarray | None:
        """A random order of the originals (int64 [originals], the place of each), the same wherever it is drawn."""
        if self._by_id is None:
            return None
        places = np.empty(len(self._by_id), dtype=np.int64)
        places[self._by_id] = np.random.default_rng(stable_seed("zero_scores", variant)).permutation(len(self._by_id))
        return places
