"""A request without its texts: what a plan is made of."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from gradsim_assets.core.gradients.engine.distinct_samples import DistinctSamples
from gradsim_assets.core.gradients.engine.request import PassRequest
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample

#: (setting, variant id)
VariantKey = tuple[str, str]

#: Tokens of a sample, and how many of them are labelled.
Lengths = tuple[int, int]


@dataclass(frozen=True)
class PassGraph:
    """Who is compared with whom, and how long everybody is."""

    #: By id.
    originals: Mapping[str, Lengths]
    #: By setting, then id.
    variants: Mapping[str, Mapping[str, Lengths]]
    #: (variant id, original id) by setting.
    pairs: Mapping[str, Sequence[tuple[str, str]]]
    #: Settings whose per-component products are wanted.
    products: frozenset[str] = frozenset()
    #: Proportions of the projections that are wanted, by setting.
    projections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    #: Preconditioners whose products are wanted, by setting.
    preconditioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, request: PassRequest) -> "PassGraph":
        """The graph of a request, reduced to the distinct samples that its pairs name."""
        request = DistinctSamples.of(request).request
        settings = request.settings
        needed = {original for s in settings for _, original in request.pairs[s]}
        wanted = {s: {variant for variant, _ in request.pairs[s]} for s in settings}
        return cls(
            {s.id: _lengths(s) for s in request.originals if s.id in needed},
            {s: {v.id: _lengths(v) for v in request.variants[s] if v.id in wanted[s]} for s in settings},
            {s: request.pairs[s] for s in settings},
            request.products,
            {s: request.projections.get(s, ()) for s in settings},
            {s: request.preconditioned.get(s, ()) for s in settings},
        )

    def only(self, variants: Set[VariantKey]) -> "PassGraph":
        """The part that these variants and their originals make."""
        pairs = {s: [pair for pair in pairs if (s, pair[0]) in variants] for s, pairs in self.pairs.items()}
        met = {original for of_setting in pairs.values() for _, original in of_setting}
        return replace(
            self,
            originals={name: lengths for name, lengths in self.originals.items() if name in met},
            variants={s: {v: n for v, n in own.items() if (s, v) in variants} for s, own in self.variants.items()},
            pairs=pairs,
        )

    @property
    def proportions(self) -> tuple[float, ...]:
        """All proportions that any setting wants."""
        return tuple(sorted({p for wanted in self.projections.values() for p in wanted}))

    @property
    def preconditioners(self) -> tuple[str, ...]:
        """All preconditioners that any setting wants."""
        return tuple(sorted({name for wanted in self.preconditioned.values() for name in wanted}))

    @property
    def minimum(self) -> int:
        """Distinct samples: the least number of backward passes."""
        return len(self.originals) + sum(map(len, self.variants.values()))

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        variants = [length for of_setting in self.variants.values() for length, _ in of_setting.values()]
        return max([*(length for length, _ in self.originals.values()), *variants], default=0)


def _lengths(sample: EncodedSample) -> Lengths:
    return sample.length, int((sample.labels[1:] != IGNORED).sum())


def originals_of(graph: PassGraph) -> dict[VariantKey, set[str]]:
    """The candidates of each variant."""
    partners: dict[VariantKey, set[str]] = {}
    for setting, pairs in graph.pairs.items():
        for variant, original in pairs:
            partners.setdefault((setting, variant), set()).add(original)
    return partners
