"""The originals that texts are traced to, with what is made of them once for all texts."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import polars as pl

from gradsim_assets.core.candidates.bm25 import Index, Tokens
from gradsim_assets.core.samples import Sample, samples_of


class KnownOriginals:
    """The originals of a dataset table; their texts and the BM25 index of their prompts are made when they are first asked for.

    Attributes:
        frame: the table.
    """

    def __init__(self, frame: pl.DataFrame, words: Tokens = str.split) -> None:
        self.frame, self._words = frame, words

    @cached_property
    def by_id(self) -> Mapping[str, Sample]:
        """The samples by id, in the order of the data."""
        return {sample.id: sample for sample in samples_of(self.frame)}

    @cached_property
    def _bm25(self) -> Index:
        return Index([sample.user for sample in self.by_id.values()], self._words)

    def scores(self, prompt: str) -> np.ndarray:
        """BM25 scores of a prompt with those of all originals: float64 [N], in the order of `by_id`."""
        return self._bm25.scores(prompt)
