"""BM25 (Okapi) candidates: the originals that a variant is compared with.

Robertson et al., "Okapi at TREC-3", 1994, with the IDF of the rank-bm25 package: idf(t) = ln((N - n_t + 0.5) / (n_t +
0.5)), negative ones replaced by epsilon times the mean IDF.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rank_bm25 import BM25Okapi

K1, B, EPSILON = 1.5, 0.75, 0.25


@dataclass(frozen=True)
class Candidate:
    """One original for one variant; rank from 1; forced: the own original, in place of the last candidate."""

    index: int
    rank: int
    score: float
    forced: bool


class Index:
    """An inverted index over the user texts of the originals (whitespace tokens).

    rank-bm25 gives the statistics; scores add up its formula token by token of the query, in the same order, so they
    equal its own to the last bit, but only documents that hold the token are visited.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self.size = len(documents)
        okapi = BM25Okapi([document.split() for document in documents], k1=K1, b=B, epsilon=EPSILON)
        norms = K1 * (1 - B + B * np.array(okapi.doc_len) / okapi.avgdl)
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for number, frequencies in enumerate(okapi.doc_freqs):
            for token, count in frequencies.items():
                numbers, counts = postings.setdefault(token, ([], []))
                numbers.append(number)
                counts.append(count)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for token, (numbers, counts) in postings.items():
            found, frequency = np.array(numbers), np.array(counts)
            self._weights[token] = (found, okapi.idf[token] * (frequency * (K1 + 1) / (frequency + norms[found])))

    def scores(self, query: str) -> np.ndarray:
        """BM25 scores, float64 [documents]; a token that occurs twice in the query counts twice."""
        scores = np.zeros(self.size)
        for token in query.split():
            if token in self._weights:
                found, weights = self._weights[token]
                scores[found] += weights
        return scores

    def candidates(self, query: str, truth: int, k: int | None) -> list[Candidate]:
        """The k best documents (None: all), best first, ties by corpus order; the truth is always among them."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:k].tolist()
        forced = truth not in order
        if forced:
            order[-1] = truth
        last = len(order) - 1
        return [
            Candidate(index, rank + 1, float(scores[index]), forced and rank == last)
            for rank, index in enumerate(order)
        ]
