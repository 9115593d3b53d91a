"""Where candidates come from: all originals, the best by BM25, the best by the gradient index, or several of these together."""

import re
from dataclasses import dataclass
from typing import Final, Self

from gradsim_assets.core.errors import InputError

#: Names of the sources, as they are written before a number.
BM25, INDEX = "bm25", "index"
ALL: Final = "all"

_ONE = re.compile(rf"({BM25}|{INDEX}):([1-9]\d{{0,8}})")


@dataclass(frozen=True)
class CandidateSource:
    """How many originals each source gives; all originals where none is named.

    >>> str(CandidateSource.of("bm25:5+index:20"))
    'bm25:5+index:20'
    >>> CandidateSource.of("all").is_all
    True
    """

    bm25: int = 0
    index: int = 0

    @property
    def is_all(self) -> bool:
        """Whether every original is a candidate."""
        return not (self.bm25 or self.index)

    def __str__(self) -> str:
        named = ((BM25, self.bm25), (INDEX, self.index))
        return "+".join(f"{name}:{count}" for name, count in named if count) or ALL

    @classmethod
    def of(cls, text: str) -> Self:
        """The sources that are written as "all", "bm25:5", "index:50" or several such joined by "+".

        Raises:
            InputError: it is written otherwise, or names a source twice.
        """
        if text.strip() == ALL:
            return cls()
        found: dict[str, int] = {}
        for part in text.split("+"):
            one = _ONE.fullmatch(part.strip())
            if one is None or one[1] in found:
                raise InputError(
                    f'"{text}" names no candidates; write "{ALL}", "{BM25}:5", "{INDEX}:50", or such joined by "+", each once.'
                )
            found[one[1]] = int(one[2])
        return cls(**found)
