"""A request without its texts: what a plan is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradsim_assets.core.gradients.engine.request import PassRequest

#: (setting, variant id)
VariantKey = tuple[str, str]


@dataclass(frozen=True)
class PassGraph:
    """A request without its texts: lengths as (tokens, labelled tokens) by id, and the pairs."""

    originals: Mapping[str, tuple[int, int]]
    variants: Mapping[str, Mapping[str, tuple[int, int]]]
    pairs: Mapping[str, Sequence[tuple[str, str]]]
    products: frozenset[str] = frozenset()
    projections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, request: PassRequest) -> "PassGraph":
        """The graph of a request, reduced to the samples that its pairs name."""
        settings = request.settings
        needed = {original for s in settings for _, original in request.pairs[s]}
        wanted = {s: {variant for variant, _ in request.pairs[s]} for s in settings}
        return cls(
            {s.id: _lengths(s) for s in request.originals if s.id in needed},
            {s: {v.id: _lengths(v) for v in request.variants[s] if v.id in wanted[s]} for s in settings},
            {s: request.pairs[s] for s in settings},
            request.products,
            {s: request.projections.get(s, ()) for s in settings},
        )

    @property
    def proportions(self) -> tuple[float, ...]:
        """All proportions that any setting wants."""
        return tuple(sorted({p for wanted in self.projections.values() for p in wanted}))

    @property
    def minimum(self) -> int:
        """Distinct samples: the least number of backward passes."""
        return len(self.originals) + sum(map(len, self.variants.values()))


def _lengths(sample: Any) -> tuple[int, int]:
    return sample.length, int((sample.labels[1:] >= 0).sum())


def originals_of(graph: PassGraph) -> dict[VariantKey, set[str]]:
    """The candidates of each variant."""
    partners: dict[VariantKey, set[str]] = {}
    for setting, pairs in graph.pairs.items():
        for variant, original in pairs:
            partners.setdefault((setting, variant), set()).add(original)
    return partners
