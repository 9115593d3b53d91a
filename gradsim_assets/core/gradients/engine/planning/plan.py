"""The plan of a pass: which variants are held at a time, in which form, and what that costs; no weights needed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.planning.blocks import Room, Unit, make_blocks
from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph, VariantKey, originals_of
from gradsim_assets.core.gradients.engine.request import PassOptions
from gradsim_assets.core.gradients.projections import projected_dimension

#: Originals whose formed gradients meet the held ones at a time: from 16 columns on a matrix product runs at speed.
TILE = 16

#: Tokens of one padded batch: more make no matrix product faster, and padding and memory grow.
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}


#: FLOP that a device does while it reads one number from memory: products of formed gradients only read.
FLOP_PER_READ = 16


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
    forming_flop: float
    pair_flop: float

    @property
    def memory_bytes(self) -> int:
        """Predicted peak beside the model."""
        return self.held_bytes + self.working_bytes

    @property
    def cost(self) -> float:
        """FLOP, weighted by how fast they run: forward and backward passes reach half the rate of bare products."""
        return 2 * self.flop + self.forming_flop + self.pair_flop

    def seconds(self, flop_per_second: float) -> float:
        """Expected time on a device that does matrix products at this rate."""
        return self.cost / flop_per_second

    def describe(self) -> str:
        """One paragraph for the log and `gradsim plan`."""
        form = f"{len(self.factored)} components held as factors, the others as formed gradients"
        return (
            f"{self.passes} backward passes ({self.passes / self.minimum_passes:.2f} x the minimum of "
            f"{self.minimum_passes}) over {self.tokens} tokens for {self.pairs} pairs, in {len(self.blocks)} blocks of "
            f"up to {max(map(len, self.blocks), default=0)} held variants; {form}; "
            f"{self.memory_bytes / 2**30:.2f} GiB beside the model "
            f"({self.held_bytes / 2**30:.2f} held, {self.working_bytes / 2**30:.2f} to work in), "
            f"{self.disk_bytes / 2**20:.0f} MiB of results; {self.flop / 1e12:.2f} TFLOP for the passes, "
            f"{self.forming_flop / 1e12:.2f} to form gradients and {self.pair_flop / 1e12:.2f} for their products."
        )


def plan_pass(shape: ModelShape, graph: PassGraph, memory_bytes: int, options: PassOptions | None = None) -> Plan:
    """The cheapest plan that fits `memory_bytes` beside the model.

    Raises:
        InputError: not even one variant and one original fit.
    """
    options = options or PassOptions()
    planners = [_Planner(shape, graph, memory_bytes, factored, options) for factored in _forms(shape, graph, options)]
    planned = [(planner, plan) for planner in planners if (plan := planner.plan(improve=False))]
    if not planned:
        least = min(planner.least() for planner in planners)
        raise InputError(
            f"the pass needs at least {least / 2**30:.2f} GiB beside the model for one pair of samples, but "
            f"{memory_bytes / 2**30:.2f} GiB are allowed; raise the memory limit or shorten the longest samples."
        )
    # FLOP tell time to a tenth or so, passes are sure: of the plans that are about as cheap, that with fewest passes.
    cheapest = min(plan.cost for _, plan in planned)
    best, plan = min(((q, p) for q, p in planned if p.cost <= 1.1 * cheapest), key=lambda one: one[1].passes)
    improved = best.plan(improve=True)
    return improved if improved and improved.passes < plan.passes else plan


def _forms(shape: ModelShape, graph: PassGraph, options: PassOptions) -> list[frozenset[int]]:
    """Candidates for what is held as factors: nothing, everything, and what is smaller that way."""
    if options.form != "auto":
        return [shape.factorable if options.form == "factored" else frozenset()]
    lengths = [length for variants in graph.variants.values() for length in variants.values()]
    tokens, labelled = (float(np.mean([x[i] for x in lengths])) if lengths else 0.0 for i in (0, 1))

    def worth(number: int) -> float:
        """Numbers saved by holding factors, per FLOP of a pair's product."""
        component = shape.components[number]
        lengths = [(labelled if part.labelled else tokens, part.left + part.right) for part in component.parts]
        saved = component.size - sum(length * numbers for length, numbers in lengths)
        return saved / sum(length**2 * numbers for length, numbers in lengths)

    order = sorted((number for number in shape.factorable if worth(number) > 0), key=lambda n: (-worth(n), n))
    shares = [frozenset(order[: round(len(order) * share)]) for share in (0, 0.02, 0.1, 0.25, 0.5, 0.75, 1)]
    return list(dict.fromkeys([*shares, shape.factorable]))


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

    def _record(self, longest: int) -> int:
        return self.held((longest, longest))

    def working(self, tile: int, batch_tokens: int, longest: int | None = None) -> int:
        """Bytes of a tile of originals and of one batch on its way through the model, by the longest sample."""
        longest = self.longest if longest is None else longest
        tokens = max(longest, batch_tokens)
        logits = 3 * self.shape.vocabulary * tokens * max(4, self.shape.activation_number_bytes)
        formed = max((self.shape.components[n].size for n in self.factored), default=0) if self.sketch else 0
        grams = 3 * longest**2 if self.factored else 0
        moving = self.shape.activations(tokens, longest) + logits
        return int(tile * self._record(longest) + moving + (formed + grams) * self.shape.number_bytes)

    def least(self) -> int:
        """Bytes for one variant and one original at a time."""
        heaviest = max((self.held(n) for vs in self.graph.variants.values() for n in vs.values()), default=0)
        return self.working(1, 0) + heaviest

    def plan(self, improve: bool) -> Plan | None:
        """The plan, with blocks grown greedily and then improved if asked to; None if one pair does not fit."""
        if self.least() > self.memory:
            return None
        batch_tokens, tile = self._batch_tokens(), self._tile()
        if self.least() + self.working(tile, batch_tokens) - self.working(1, 0) > self.memory:
            batch_tokens, tile = 0, 1  # what was asked for does not fit
        room = Room(self.memory, lambda longest: self.working(tile, batch_tokens, longest))
        keys, units = _units(self.graph, self.held, room)
        blocks = [[key for number in block for key in keys[number]] for block in make_blocks(units, room, improve)]
        return self._cost(blocks, tile, batch_tokens)

    def _batch_tokens(self) -> int:
        if not self.shape.batchable:
            return 0
        if self.options.batch_tokens is not None:
            return self.options.batch_tokens
        usual = BATCH_TOKENS.get(self.options.device.split(":")[0], 512)
        return usual if self.working(1, usual, usual) <= self.memory / 8 else 0

    def _tile(self) -> int:
        if self.options.tile is not None:
            return self.options.tile
        # A tile may take an eighth of the memory: what it takes is lost to held variants, which save passes.
        return max(1, min(TILE, len(self.graph.originals), int(self.memory / 8 // max(1, self._record(self.longest)))))

    def _cost(self, blocks: list[list[VariantKey]], tile: int, batch_tokens: int) -> Plan:
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
        held = [sum(self.held(graph.variants[s][v]) for s, v in block) for block in blocks]
        longest = [
            max([graph.originals[o][0] for o in others] + [graph.variants[s][v][0] for s, v in block])
            for block, others in zip(blocks, streamed, strict=True)
        ]
        working = [self.working(tile, batch_tokens, tokens) for tokens in longest]
        peak = max(range(len(blocks)), key=lambda block: held[block] + working[block])
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
            held_bytes=held[peak],
            working_bytes=working[peak],
            disk_bytes=pairs * len(sizes) * 24,
            flop=4.0 * tokens * self.shape.matrix_parameters,
            forming_flop=2.0 * tokens * formed,
            pair_flop=factor_flop * (products + selves) + FLOP_PER_READ * 2 * pairs * (self.row + self.sketch),
        )


def _units(
    graph: PassGraph, held: Callable[[tuple[int, int]], int], room: Room
) -> tuple[list[list[VariantKey]], list[Unit]]:
    """Variants that go together: those of one id, which share most candidates, unless they do not fit together."""
    partners = originals_of(graph)
    numbers = {original: number for number, original in enumerate(graph.originals)}
    by_id: dict[str, list[VariantKey]] = {}
    for key in partners:
        by_id.setdefault(key[1], []).append(key)

    def unit(keys: list[VariantKey]) -> Unit:
        originals = sorted({o for key in keys for o in partners[key]})
        lengths = [graph.variants[s][v] for s, v in keys]
        longest = max([n for n, _ in lengths] + [graph.originals[o][0] for o in originals])
        return Unit(sum(map(held, lengths)), np.asarray([numbers[o] for o in originals]), longest)

    keys = [part for one in by_id.values() for part in ([one] if room.fits([unit(one)]) else [[key] for key in one])]
    return keys, [unit(part) for part in keys]
