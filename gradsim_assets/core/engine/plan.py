"""The plan of a pass: which variants are held at a time, in which form, and what that costs; no weights needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradsim_assets.core.engine.request import PassOptions, PassRequest
from gradsim_assets.core.engine.shape import ModelShape
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.projections import projected_dimension

#: (setting, variant id)
VariantKey = tuple[str, str]

#: Originals whose formed gradients meet the held ones at a time: from 16 columns on a matrix product runs at speed.
TILE = 16

#: Tokens of one padded batch: more make no matrix product faster, and padding and memory grow.
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


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


@dataclass(frozen=True)
class Plan:
    """How a pass will go. Bytes are of device memory beside the model; FLOP count multiply and add."""

    blocks: list[list[VariantKey]]
    factored: frozenset[int]
    tile: int
    batch_tokens: int
    passes: int
    minimum_passes: int
    pairs: int
    tokens: int
    held_bytes: int
    working_bytes: int
    disk_bytes: int
    flop: float
    pair_flop: float

    @property
    def memory_bytes(self) -> int:
        """Predicted peak beside the model."""
        return self.held_bytes + self.working_bytes

    def seconds(self, flop_per_second: float) -> float:
        """Expected time at a calibrated rate."""
        return (self.flop + self.pair_flop) / flop_per_second

    def describe(self) -> str:
        """One paragraph for the log and `gradsim plan`."""
        form = f"{len(self.factored)} components held as factors, the others as formed gradients"
        return (
            f"{self.passes} backward passes ({self.passes / self.minimum_passes:.2f} x the minimum of "
            f"{self.minimum_passes}) over {self.tokens} tokens for {self.pairs} pairs, in {len(self.blocks)} blocks of "
            f"up to {max(map(len, self.blocks), default=0)} held variants; {form}; "
            f"{self.memory_bytes / 2**30:.2f} GiB beside the model "
            f"({self.held_bytes / 2**30:.2f} held, {self.working_bytes / 2**30:.2f} to work in), "
            f"{self.disk_bytes / 2**20:.0f} MiB of results; {self.flop / 1e12:.2f} TFLOP for the gradients and "
            f"{self.pair_flop / 1e12:.2f} for the products."
        )


def plan_pass(shape: ModelShape, graph: PassGraph, memory_bytes: int, options: PassOptions | None = None) -> Plan:
    """The cheapest plan that fits `memory_bytes` beside the model.

    Raises:
        InputError: not even one variant and one original fit.
    """
    options = options or PassOptions()
    best: Plan | None = None
    for factored in _forms(shape, graph, options):
        plan = _Planner(shape, graph, memory_bytes, factored, options).plan()
        if plan and (best is None or plan.flop + plan.pair_flop < best.flop + best.pair_flop):
            best = plan
    if best is None:
        least = min(
            _Planner(shape, graph, memory_bytes, factored, options).least()
            for factored in _forms(shape, graph, options)
        )
        raise InputError(
            f"the pass needs at least {least / 2**30:.2f} GiB beside the model for one pair of samples, but "
            f"{memory_bytes / 2**30:.2f} GiB are allowed; raise the memory limit or shorten the longest samples."
        )
    return best


def _forms(shape: ModelShape, graph: PassGraph, options: PassOptions) -> list[frozenset[int]]:
    """Candidates for what is held as factors: nothing, everything, and what is smaller that way."""
    if options.form != "auto":
        return [shape.factorable if options.form == "factored" else frozenset()]
    lengths = [length for variants in graph.variants.values() for length in variants.values()]
    tokens, labelled = (np.mean([x[i] for x in lengths]) if lengths else 0 for i in (0, 1))
    smaller = frozenset(
        number
        for number in shape.factorable
        if sum((labelled if p.labelled else tokens) * (p.left + p.right) for p in shape.components[number].parts)
        < shape.components[number].size
    )
    return list(dict.fromkeys([frozenset(), smaller, shape.factorable]))


class _Planner:
    """One choice of forms, planned through."""

    def __init__(
        self, shape: ModelShape, graph: PassGraph, memory: int, factored: frozenset[int], options: PassOptions
    ) -> None:
        self.shape, self.graph, self.memory, self.factored, self.options = shape, graph, memory, factored, options
        self.row = sum(c.size for number, c in enumerate(shape.components) if number not in factored)
        self.sketch = sum(projected_dimension(c.size, p) for p in graph.proportions for c in shape.components)
        self.tokens = self.labels = 0  # numbers held per token and per labelled token
        groups: set[int] = set()
        for number in sorted(factored):
            for part in shape.components[number].parts:
                numbers = part.left + (0 if part.group in groups else part.right)
                groups.add(part.group)
                if part.labelled:
                    self.labels += numbers
                else:
                    self.tokens += numbers
        self.longest = max(
            [n for n, _ in graph.originals.values()] + [n for vs in graph.variants.values() for n, _ in vs.values()],
            default=0,
        )

    def held(self, lengths: tuple[int, int]) -> int:
        """Bytes of one held gradient."""
        numbers = (self.row + self.sketch) * self.shape.number_bytes
        factors = (self.tokens * lengths[0] + self.labels * lengths[1]) * self.shape.activation_number_bytes
        return numbers + factors

    def _record(self) -> int:
        lengths = list(self.graph.originals.values())
        return max(map(self.held, lengths), default=0)

    def working(self, tile: int, batch_tokens: int) -> int:
        """Bytes of a tile of originals and of one batch on its way through the model."""
        longest = self.longest
        tokens = max(longest, batch_tokens)
        logits = 3 * self.shape.vocabulary * tokens * max(4, self.shape.activation_number_bytes)
        formed = max((self.shape.components[n].size for n in self.factored), default=0) if self.sketch else 0
        grams = 3 * longest**2 if self.factored else 0
        moving = self.shape.activations(tokens, longest) + logits
        return int(tile * self._record() + moving + (formed + grams) * self.shape.number_bytes)

    def least(self) -> int:
        """Bytes for one variant and one original at a time."""
        heaviest = max((self.held(n) for vs in self.graph.variants.values() for n in vs.values()), default=0)
        return self.working(1, 0) + heaviest

    def plan(self) -> Plan | None:
        """None if one pair does not fit."""
        if self.least() > self.memory:
            return None
        kind = self.options.device.split(":")[0]
        asked = self.options.batch_tokens
        batch_tokens = (BATCH_TOKENS.get(kind, 512) if asked is None else asked) if self.shape.batchable else 0
        if asked is None and self.working(1, batch_tokens) > self.memory / 4:
            batch_tokens = 0
        room = max(self.memory / 8, self.working(1, batch_tokens)) - self.working(0, batch_tokens)
        tile = max(1, min(TILE, len(self.graph.originals), int(room // max(1, self._record()))))
        tile = self.options.tile or tile
        working = self.working(tile, batch_tokens)
        if self.least() - self.working(1, 0) + working > self.memory:
            tile, batch_tokens = 1, 0  # what was asked for does not fit
            working = self.working(1, 0)
        blocks = grow_blocks(self.graph, self.held, self.memory - working)
        return self._cost(blocks, tile, batch_tokens, working)

    def _cost(self, blocks: list[list[VariantKey]], tile: int, batch_tokens: int, working: int) -> Plan:
        graph = self.graph
        partners = originals_of(graph)
        streamed = [sorted({o for key in block for o in partners[key]}) for block in blocks]
        lengths = [graph.variants[s][v] for block in blocks for s, v in block]
        lengths += [graph.originals[o] for block in streamed for o in block]
        tokens = sum(n for n, _ in lengths)
        sizes = {number: c.size for number, c in enumerate(self.shape.components)}
        formed = sum(sizes[n] for n in sizes if self.sketch or n not in self.factored)
        factor_flop = 2 * (self.tokens + self.labels)
        own = [graph.variants[s][v][0] for s in graph.pairs for v, _ in graph.pairs[s]]
        other = [graph.originals[o][0] for s in graph.pairs for _, o in graph.pairs[s]]
        products = float(np.dot(np.asarray(own, float), np.asarray(other, float)))
        selves = 0.0 if self.sketch else float(sum(n * n for n, _ in lengths))
        held = max((sum(self.held(graph.variants[s][v]) for s, v in block) for block in blocks), default=0)
        pairs = len(own)
        return Plan(
            blocks=blocks,
            factored=self.factored,
            tile=tile,
            batch_tokens=batch_tokens,
            passes=len(lengths),
            minimum_passes=graph.minimum,
            pairs=pairs,
            tokens=tokens,
            held_bytes=held,
            working_bytes=working,
            disk_bytes=pairs * len(sizes) * 24,
            flop=float(tokens) * (4 * self.shape.matrix_parameters + 2 * formed),
            pair_flop=factor_flop * (products + selves) + 8.0 * pairs * (self.row + self.sketch),
        )


def originals_of(graph: PassGraph) -> dict[VariantKey, set[str]]:
    """The candidates of each variant."""
    partners: dict[VariantKey, set[str]] = {}
    for setting, pairs in graph.pairs.items():
        for variant, original in pairs:
            partners.setdefault((setting, variant), set()).add(original)
    return partners


def grow_blocks(graph: PassGraph, held: Any, room: float) -> list[list[VariantKey]]:
    """Blocks of variants that fit `room` bytes, grown greedily by the id that adds fewest new originals.

    An id's variants of all settings go together, for they share most candidates, unless they do not fit together.
    """
    partners = originals_of(graph)
    units: dict[str, list[VariantKey]] = {}
    for key in partners:
        units.setdefault(key[1], []).append(key)
    split = [
        part
        for unit in units.values()
        for part in ([unit] if sum(held(graph.variants[s][v]) for s, v in unit) <= room else [[key] for key in unit])
    ]
    weight = np.asarray([sum(held(graph.variants[s][v]) for s, v in unit) for unit in split], float)
    wanted = [set().union(*(partners[key] for key in unit)) for unit in split]
    users: dict[str, list[int]] = {}
    for number, originals in enumerate(wanted):
        for original in originals:
            users.setdefault(original, []).append(number)
    full = np.asarray([len(originals) for originals in wanted], float)
    left = np.ones(len(split), bool)
    blocks: list[list[VariantKey]] = []
    while left.any():
        blocks.append([key for number in _grow_one(left, weight, full, wanted, users, room) for key in split[number]])
    return blocks


def _grow_one(
    left: np.ndarray,
    weight: np.ndarray,
    full: np.ndarray,
    wanted: list[set[str]],
    users: dict[str, list[int]],
    room: float,
) -> list[int]:
    """One block: unit numbers, taken out of `left`."""
    new = full.copy()
    block: list[int] = []
    covered: set[str] = set()
    while True:
        fits = left & (weight <= room)
        if not fits.any():
            return block
        # Fewest new originals; among equals the one with most candidates already there, then the first.
        score = np.where(fits, new - 1e-3 * (full - new), np.inf)
        number = int(score.argmin())
        block.append(number)
        left[number] = False
        room -= weight[number]
        for original in sorted(wanted[number] - covered):
            covered.add(original)
            new[users[original]] -= 1
