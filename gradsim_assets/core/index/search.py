"""Search for the originals whose sketches have the largest products with that of a text."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file

#: Originals beyond which lists are searched in place of all: up to here one reads all sketches in a second or two.
LISTS_BEYOND = 200_000

#: So many times the root of their number are the lists, of which one in so many is searched; and originals that each is found by.
LISTS_PER_ROOT, SEARCHED_SHARE, TRAINED_ON = 2, 16, 40


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "searching an index needs the package faiss-cpu; install gradsim[compute], or trace against all originals."
        ) from error
    return faiss


class Search:
    """The sketches of originals, held as float16 by FAISS (Johnson et al. 2019) and compared by their inner products.

    All are compared with up to `LISTS_BEYOND` originals. Beyond that they are sorted into lists around centres that k-means finds,
    and those of the nearest lists are compared. A file `cache` keeps what was made of the sketches, to be opened at once.
    """

    def __init__(
        self, ids: Sequence[str], parts: Callable[[], Iterable[np.ndarray]], dimension: int, cache: Path | None = None
    ) -> None:
        self.ids = list(ids)
        self._faiss = _faiss()
        self._index = self._opened(dimension, cache) or self._made(parts, dimension, cache)

    def _opened(self, dimension: int, cache: Path | None) -> Any:
        if cache is None or not cache.exists():
            return None
        try:
            found = self._faiss.read_index(str(cache))
        except RuntimeError:  # of another version of FAISS, or damaged
            return None
        return found if (found.d, found.ntotal) == (dimension, len(self.ids)) else None

    def _made(self, parts: Callable[[], Iterable[np.ndarray]], dimension: int, cache: Path | None) -> Any:
        """An index of sketches that come as fp32 [n, d], a part at a time, as often as they are asked for."""
        faiss, count = self._faiss, len(self.ids)
        if count <= LISTS_BEYOND:
            index = faiss.index_factory(dimension, "SQfp16", faiss.METRIC_INNER_PRODUCT)
        else:
            lists = int(LISTS_PER_ROOT * count**0.5)
            index = faiss.index_factory(dimension, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
            index.nprobe = max(1, lists // SEARCHED_SHARE)
            step = max(1, count // (TRAINED_ON * lists))
            index.train(np.concatenate([part[::step] for part in parts()]))
        for part in parts():
            index.add(part)
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(cache) as unfinished:
                faiss.write_index(index, str(unfinished))
        return index

    def best(self, queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """For each of the sketches fp32 [n, d] the ids of the k best originals with their products, best first."""
        products, places = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, len(self.ids)))
        return [
            [(self.ids[place], float(product)) for place, product in zip(own, products[row], strict=True) if place >= 0]
            for row, own in enumerate(places)
        ]
