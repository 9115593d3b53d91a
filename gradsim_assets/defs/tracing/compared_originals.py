"""With which originals a trace compares a text: all, or those that BM25 or the gradient index finds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradsim_assets.core.candidates.candidate_source import CandidateSource
from gradsim_assets.core.errors import InputError
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.index.stored_index import StoredIndex
from gradsim_assets.resources.by_name import Resources

if TYPE_CHECKING:
    from gradsim_assets.core.index.search import Search
    from gradsim_assets.core.models.loading import LoadedModel
    from gradsim_assets.core.models.tokenization import ContextPolicy
    from gradsim_assets.core.samples import Sample
    from gradsim_assets.core.tracing.known_originals import KnownOriginals
    from gradsim_assets.core.tracing.trace import Method


@dataclass
class OpenedIndex:
    """The index that was searched last: to open one of very many originals takes longer than to search it."""

    _search: "Search | None" = field(default=None, init=False)
    _of: tuple[str, bool] | None = field(default=None, init=False)

    def search(self, index: StoredIndex, by_length: bool) -> "Search":
        """As `StoredIndex.search`."""
        if self._search is None or self._of != (index.digest, by_length):
            self._search = None  # first, for two need not fit
            self._search, self._of = index.search(by_length), (index.digest, by_length)
        return self._search


@dataclass(frozen=True)
class Choice:
    """A choice of originals for one method and model; `index` is there where it is asked for, and stays `opened`."""

    source: CandidateSource
    method: "Method"
    resources: Resources
    index: StoredIndex | None
    opened: OpenedIndex

    @classmethod
    def of(
        cls,
        source: CandidateSource,
        method: "Method",
        resources: Resources,
        slug: str,
        version: str,
        opened: OpenedIndex,
    ) -> "Choice":
        """The choice for a model by its partition key, at this version (see `ModelHub.version`).

        Raises:
            InputError: the index is missing or out of date, or knows nothing of what the method compares.
        """
        if not source.index:
            return cls(source, method, resources, None, opened)
        if method.preconditioner or method.components:
            raise InputError(
                f"the index holds plain gradients of all components, and {method.name} compares others; give --against all or "
                "bm25:K, or the method cosine or dot_product."
            )
        index = StoredIndex.of(resources.store, resources.compute, slug, version)
        return cls(source, method, resources, index, opened)

    @property
    def provenance(self) -> dict[str, str]:
        """What a trace says of it: nothing where it is compared with all."""
        if self.source.is_all:
            return {}
        if self.index is None:
            return {"against": str(self.source)}
        return {"against": str(self.source), "index": self.index.digest, "recall": self._recall(self.index)}

    def _recall(self, index: StoredIndex) -> str:
        from gradsim_assets.core.index.index_recall import recall_sentence

        found = index.recall()
        return "recall of the index was not measured" if found is None else recall_sentence(found, self.source.index)

    def ids(
        self,
        query: "Sample",
        originals: "KnownOriginals",
        loaded: "LoadedModel",
        policy: "ContextPolicy",
        log: Callable[[str], None],
    ) -> list[str] | None:
        """Ids of the originals in the order of the data; None for all."""
        if self.source.is_all:
            return None
        chosen = set(self._by_bm25(query, originals) if self.source.bm25 else ())
        if self.index is not None:
            chosen |= set(self._by_index(self.index, query, loaded, policy, log))
        return [name for name in originals.frame["id"].to_list() if name in chosen]

    def _by_bm25(self, query: "Sample", originals: "KnownOriginals") -> list[str]:
        import numpy as np

        ids, scores = list(originals.by_id), originals.scores(query.user)
        return [ids[place] for place in np.argsort(-scores, kind="stable")[: self.source.bm25]]

    def _by_index(
        self,
        index: StoredIndex,
        query: "Sample",
        loaded: "LoadedModel",
        policy: "ContextPolicy",
        log: Callable[[str], None],
    ) -> list[str]:
        from gradsim_assets.core.index.gradient_index import index_frame, sketches_of
        from gradsim_assets.core.models.tokenization import encode_samples
        from gradsim_assets.core.tracing.trace import DOT_PRODUCT

        encoding = encode_samples([query], loaded.tokenizer, loaded.max_positions, loaded.takes, policy)
        if not encoding.samples:
            raise InputError("the text is longer than the model's context; shorten it.")
        version = code_version("core.models.loading:load_model", "core.index.sketching:sketch")
        made = self.resources.compute.sketches(
            loaded, encoding.samples, index.dimension, None, lambda done, total, what: None, log, version
        )
        unit = sketches_of(index_frame(made.ids, made.sketches))
        search = self.opened.search(index, by_length=self.method.name == DOT_PRODUCT)
        (best,) = search.best(unit, self.source.index)
        return [name for name, _ in best]
