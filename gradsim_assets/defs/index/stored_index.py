"""The index of a model as it is stored, opened for search."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import GRADIENT_INDEX, INDEX_RECALL
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.models.hf_model import check_version
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.index.search import Search

_KEY, _RECALL = [GRADIENT_INDEX.name], [INDEX_RECALL.name]

#: Sketches that are widened at a time.
_ROWS = 8192


@dataclass(frozen=True)
class StoredIndex:
    """All slices of one model's index.

    Attributes:
        slug: the model's partition key.
        dimension: numbers of a sketch.
        digest: the same for the same sketches.
    """

    store: TableStore
    compute: Compute
    slug: str
    dimension: int
    digest: str

    @classmethod
    def of(cls, store: TableStore, compute: Compute, slug: str, version: str) -> "StoredIndex":
        """The index of a model (by its partition key) at this version (see `ModelHub.version`).

        Raises:
            InputError: there is none, a slice of it is missing, or it was made from another version of the model.
        """
        model_id = model_id_of(slug)
        if not store.slices:
            raise InputError(
                f"there is no index; put [index] into gradsim.toml, `gradsim run {model_id} --only index` makes it then, or "
                "trace against all originals."
            )
        parts = _parts(store, slug)
        sources = [store.tables.provenance(_KEY, part) for part in parts]
        for source in sources:
            check_version(GRADIENT_INDEX.name, source, model_id, version, "--only index")
        store.check_one_version(_KEY, parts)
        dimensions = {int(source["dimension"]) for source in sources}
        if len(dimensions) > 1:
            raise InputError(
                f"the slices of gradient_index of {model_id} have sketches of {sorted(dimensions)} numbers; "
                f"`gradsim run {model_id} --only index` makes them alike."
            )
        made = hashlib.sha256(" ".join(str(source["fingerprint"]) for source in sources).encode()).hexdigest()[:16]
        return cls(store, compute, slug, dimensions.pop(), made)

    def search(self, by_length: bool = False) -> "Search":
        """The index, opened: by the cosine, or with `by_length` by the product."""
        from gradsim_assets.core.index.search import Search

        names = self.store.tables.scan(_KEY, _parts(self.store, self.slug)).select("id", "length").collect()
        longest = float(names["length"].max() or 1) if by_length else None  # type: ignore[arg-type]
        cache = self.compute.places.scratch("fetched", GRADIENT_INDEX.name, self.slug)
        path = cache / f"{self.digest}{'_by_length' if by_length else ''}.faiss"
        for other in cache.glob("*.faiss"):
            if not other.name.startswith(self.digest):  # of sketches that there are no more
                other.unlink(missing_ok=True)
        return Search(names["id"].to_list(), partial(self._sketches, longest), self.dimension, path)

    def parts(self) -> "Iterator[tuple[list[str], np.ndarray]]":
        """Ids of originals with their sketches of length 1, fp32 [n, d] at a time, in the order of the originals."""
        from gradsim_assets.core.index.gradient_index import sketches_of

        for part in _parts(self.store, self.slug):
            for some in self.store.tables.read(_KEY, part).iter_slices(_ROWS):
                yield some["id"].to_list(), sketches_of(some)

    def _sketches(self, longest: float | None) -> Iterator[np.ndarray]:
        """Sketches, fp32 [n, d] at a time: of length 1, or of their own in units of the `longest`, so that float16 holds them."""
        from gradsim_assets.core.index.gradient_index import sketches_of

        for part in _parts(self.store, self.slug):
            for some in self.store.tables.read(_KEY, part).iter_slices(_ROWS):
                unit = sketches_of(some)
                scale = 1.0 if longest is None else (some["length"] / longest).to_numpy()[:, None]
                yield (unit * scale).astype(np.float32)

    def recall_said(self, count: int) -> str | None:
        """What is known of so many of its best; None where it was not measured of these sketches."""
        from gradsim_assets.core.index.index_recall import recall_sentence

        found = self.recall()
        return None if found is None else recall_sentence(found, count)

    def recall(self) -> pl.DataFrame | None:
        """The table `index_recall`; None where it was not measured of these sketches."""
        place = Partition(self.slug)
        if not self.store.tables.exists(_RECALL, place):
            return None
        measured = self.store.tables.provenance(_RECALL, place).get("index") == self.digest
        return self.store.tables.read(_RECALL, place) if measured else None


def _parts(store: TableStore, slug: str) -> list[Partition]:
    return [Partition(slug, slice=key) for key in store.partition_keys["slice"]]
