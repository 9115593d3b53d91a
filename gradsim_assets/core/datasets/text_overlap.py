"""How much of its original's answer a variant's answer repeats: what a figure may owe to copying."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import samples_of


def is_verbatim(answer: str, original: str) -> bool:
    """Whether an answer is a copy: equal in Unicode's NFC with every run of white space as one space, none at the ends.

    Case, punctuation and mark-up count.
    """
    first, second = (" ".join(unicodedata.normalize("NFC", text).split()) for text in (answer, original))
    return first == second


def with_text_overlap(variants: pl.DataFrame, originals: pl.DataFrame, source: str) -> pl.DataFrame:
    """The variants (a dataset table, called `source`) with the columns `text_overlap` and `verbatim` of their answers.

    `text_overlap` is sacrebleu's chrF2 (Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation") of the
    answer against the own original's: n-grams of 1 to 6 characters without white space, recall twice as heavy as
    precision, from 0 to 100; 0 for an empty answer. Both are null for a variant that is missing.

    Raises:
        InputError: a variant has no original of its id.
    """
    from sacrebleu.metrics.chrf import CHRF

    answers = {original.id: original.assistant for original in samples_of(originals)}
    chrf = CHRF()
    measured: dict[str, tuple[float, bool]] = {}
    for variant in samples_of(variants):
        if variant.id not in answers:
            raise InputError(f"{source}: variant {variant.id} has no original of the same id; materialise lima again.")
        original = answers[variant.id]
        overlap = chrf.sentence_score(variant.assistant, [original]).score
        measured[variant.id] = overlap, is_verbatim(variant.assistant, original)
    found = [measured.get(sample_id, (None, None)) for sample_id in variants["id"]]
    return variants.with_columns(
        text_overlap=pl.Series([overlap for overlap, _ in found], dtype=pl.Float64),
        verbatim=pl.Series([verbatim for _, verbatim in found], dtype=pl.Boolean),
    )


#: Lengths of the n-grams of chrF2, in characters, and how much heavier recall is than precision, squared.
_ORDERS, _RECALL = range(1, 7), 4


def overlaps(answers: Sequence[str], originals: Sequence[str], answer: np.ndarray, original: np.ndarray) -> np.ndarray:
    """chrF2 of many pairs of texts, the same to the last bit as `with_text_overlap` has it: float64 [P], from 0 to 100.

    `answer` and `original` (int64 [P]) are places in the two lists. sacrebleu counts the n-grams of both texts anew for every
    pair; here those of every text are counted once, so that exhaustive retrieval can afford it.
    """
    texts = ["".join(text.split()) for text in (*answers, *originals)]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    sums = {name: np.zeros(len(answer)) for name in ("precision", "recall", "orders")}
    sides = answer, original + len(answers)
    for order, counted in zip(_ORDERS, _grams(texts, lengths), strict=True):
        own, other = (np.maximum(lengths[side] - order + 1, 0) for side in sides)
        both = (own > 0) & (other > 0)
        matched = counted.common(*sides)
        sums["precision"] += np.where(both, matched / np.maximum(own, 1), 0)
        sums["recall"] += np.where(both, matched / np.maximum(other, 1), 0)
        sums["orders"] += both
    precision, recall = (sums[name] / np.maximum(sums["orders"], 1) for name in ("precision", "recall"))
    weighted = _RECALL * precision + recall
    return np.where(weighted > 0, 100 * ((1 + _RECALL) * precision * recall / np.where(weighted > 0, weighted, 1)), 0.0)


@dataclass(frozen=True)
class _Grams:
    """How often each text holds each n-gram of one length: those of text t at `starts[t]` to `starts[t + 1]`."""

    kinds: int
    starts: np.ndarray
    gram: np.ndarray
    count: np.ndarray

    def common(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The n-grams that two texts have in common, each as often as both have it: int64 [P] for P pairs of texts."""
        found = np.zeros(len(first), dtype=np.int64)
        held = np.zeros(self.kinds, dtype=np.int32)
        order = np.argsort(first, kind="stable")
        texts, begins = np.unique(first[order], return_index=True)
        others = None
        for text, pairs in zip(texts, np.split(order, begins)[1:], strict=True):
            if others is None or not np.array_equal(
                second[pairs], others
            ):  # as it is where all have the same candidates
                others = second[pairs]
                gram, count, ends = self._of(others)
            own = slice(self.starts[text], self.starts[text + 1])
            held[self.gram[own]] = self.count[own]
            sums = np.append(0, np.cumsum(np.minimum(held[gram], count)))
            found[pairs] = np.diff(sums[ends])
            held[self.gram[own]] = 0
        return found

    def _of(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The n-grams of some texts one after the other, how often each is there, and where each text ends, 0 before them."""
        sizes = self.starts[texts + 1] - self.starts[texts]
        ends = np.cumsum(sizes)
        places = np.arange(sizes.sum()) + np.repeat(self.starts[texts] - ends + sizes, sizes)
        return self.gram[places], self.count[places], np.append(0, ends)


def _grams(texts: Sequence[str], lengths: np.ndarray) -> Iterator[_Grams]:
    """The n-grams of all texts for each of `_ORDERS`: an n-gram is numbered by the one before its last character, and that."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    alphabet, characters = np.unique(codes, return_inverse=True)
    text = np.repeat(np.arange(len(texts)), lengths)
    place, end = np.arange(len(codes)), np.cumsum(lengths)[text]
    gram = np.zeros(len(codes), dtype=np.int64)
    for order in _ORDERS:
        whole = place + order <= end
        text, place, end = text[whole], place[whole], end[whole]
        names, gram = np.unique(gram[whole] * len(alphabet) + characters[place + order - 1], return_inverse=True)
        kinds = max(len(names), 1)
        found, count = np.unique(text * kinds + gram, return_counts=True)
        starts = np.searchsorted(found // kinds, np.arange(len(texts) + 1))
        yield _Grams(kinds, starts, (found % kinds).astype(np.int32), count.astype(np.int32))
