"""The plan of a pass: which variants are held at a time, in which form, and what that costs; no weights needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches, tiles
from gradsim_assets.core.gradients.engine.planning.blocks import MemoryBudget, VariantGroup, make_blocks
from gradsim_assets.core.gradients.engine.planning.cost_model import RESULT_BYTES, flop_per_token, work_of_pass
from gradsim_assets.core.gradients.engine.planning.kept_originals import kept_originals
from gradsim_assets.core.gradients.engine.planning.memory_model import (
    MemoryModel,
    most_preconditioner_bytes,
    preconditioner_bytes,
)
from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph, VariantKey, originals_of
from gradsim_assets.core.gradients.engine.request import PassOptions
from gradsim_assets.core.sample_gradients.device_profile import profile_of

#: The least that a batch is halved to before samples go one by one.
LEAST_BATCH_TOKENS = 32

#: The share of the memory that a tile, or a batch on its way, may take: it is lost to held variants, which save passes.
WORKING_SHARE = 1 / 8

#: FLOP tell time to a tenth or so, passes are sure: among plans that cost at most so much more, the fewest passes win.
ABOUT_AS_CHEAP = 1.1

#: The share of the memory up to which preconditioners stay on the device.
KEPT_SHARE = 1 / 4

#: Times that blocks are made smaller at most, until they fit with all their padding.
TRIES = 3

#: Shares of the longest sample's tokens beyond which activations may be computed again.
CHECKPOINTED_SHARES = (1 / 2, 1 / 4, 1 / 8, 0)

#: Shares of the factorable components, the most worthwhile first, that are tried as factors.
FACTORED_SHARES = (0, 0.02, 0.1, 0.25, 0.5, 0.75, 1)


class TooLittleMemoryError(InputError):
    """The gradients of one pair of samples do not fit beside the model; those of some components may."""


@dataclass(frozen=True)
class Plan:
    """How a pass will go. Bytes are of device memory beside the model, FLOP as in `Work`."""

    #: Variants that are held at a time.
    blocks: list[list[VariantKey]]
    #: Components that are held as factors.
    factored: frozenset[int]
    #: Originals that meet the held variants at a time, and the most padded tokens of more than one.
    tile: int
    tile_tokens: int
    #: Padded tokens of a batch; 0 for one sample at a time. What a batch costs beside its tokens, as tokens.
    batch_tokens: int
    batch_overhead_tokens: int
    #: Backward passes, and how many distinct samples there are.
    passes: int
    minimum_passes: int
    pairs: int
    #: Tokens of all passes.
    tokens: int
    #: Held variants, and what else there is, of the block that takes most.
    held_bytes: int
    working_bytes: int
    #: Results of all pairs.
    disk_bytes: int
    #: FLOP of the passes, of forming gradients, of their products.
    flop: float
    forming_flop: float
    pair_flop: float
    #: Expected time on a device whose products have this rate.
    expected_seconds: float
    product_rate: float
    #: Bytes of all preconditioners, and whether they stay on the device; otherwise a component's come there when they are used.
    preconditioner_bytes: int = 0
    preconditioners_kept: bool = True
    #: Padded tokens of a batch beyond which activations are computed again on the way back; None: they are kept.
    checkpoint_beyond: int | None = None
    #: Originals whose gradients are kept in the host's memory for later blocks, the bytes that these take there, and how often one
    #: is fetched.
    kept: frozenset[str] = frozenset()
    host_bytes: int = 0
    fetches: int = 0
    #: Bytes that go to the host's memory or come from there.
    host_traffic: int = 0
    #: How many devices the model is spread over: bytes are those of the fullest.
    devices: int = 1

    @property
    def memory_bytes(self) -> int:
        """Predicted peak beside the model."""
        return self.held_bytes + self.working_bytes

    def seconds(self, flop_per_second: float) -> float:
        """Expected time on a device that does matrix products at this rate, and all else in proportion."""
        return self.expected_seconds * self.product_rate / flop_per_second

    def batches(self, lengths: Sequence[int]) -> list[slice]:
        """Samples of these lengths (falling) in the batches that they go through in."""
        return padded_batches(lengths, self.batch_tokens, self.batch_overhead_tokens)

    def tiles(self, lengths: Sequence[int]) -> list[list[slice]]:
        """Originals of these lengths (falling) in tiles of batches."""
        return tiles(self.batches(lengths), lengths, self.tile, self.tile_tokens)

    def tiles_of_fetched(self, lengths: Sequence[int]) -> list[list[slice]]:
        """Originals of these lengths (falling) that are fetched one by one, in tiles."""
        return tiles([slice(n, n + 1) for n in range(len(lengths))], lengths, self.tile, self.tile_tokens)

    def with_less(self, block: int, note: Callable[[str], None], checkpointable: bool = False) -> "Plan":
        """This plan with half as much at a time where `block` ran out of memory: batches first, then tiles, then it.

        Where nothing can be halved, activations are computed again, if the model's are `checkpointable`.

        Raises:
            TooLittleMemoryError: it is one sample at a time already.
        """
        if self.batch_tokens > 0:
            tokens = self.batch_tokens // 2 if self.batch_tokens > 2 * LEAST_BATCH_TOKENS else 0
            note(f"out of memory: batches halved to {f'{tokens} tokens' if tokens else 'one sample'}")
            return replace(self, batch_tokens=tokens)
        if self.tile > 1:
            note(f"out of memory: tiles halved to {self.tile // 2} originals")
            return replace(self, tile=self.tile // 2, tile_tokens=self.tile_tokens // 2)
        variants = self.blocks[block]
        if len(variants) > 1:
            half = len(variants) // 2
            note(f"out of memory: block {block} halved to {half} held variants")
            halves = [variants[:half], variants[half:]]
            return replace(self, blocks=[*self.blocks[:block], *halves, *self.blocks[block + 1 :]])
        if checkpointable and self.checkpoint_beyond != 0:
            note("out of memory: activations are computed again on the way back")
            return replace(self, checkpoint_beyond=0)
        raise TooLittleMemoryError(
            "the device ran out of memory with one sample at a time; use a device with more memory, or shorten the "
            "longest samples."
        )

    def describe(self) -> str:
        """One paragraph for the log and `gradsim plan`."""
        form = f"{len(self.factored)} components held as factors, the others as formed gradients"
        if self.checkpoint_beyond is not None:
            form += f"; activations of samples beyond {self.checkpoint_beyond} tokens computed again on the way back"
        return (
            f"{self.passes} backward passes ({self.passes / self.minimum_passes:.2f} x the minimum of "
            f"{self.minimum_passes}) over {self.tokens} tokens for {self.pairs} pairs, in {len(self.blocks)} blocks of "
            f"up to {max(map(len, self.blocks), default=0)} held variants; {form}; "
            f"{self.memory_bytes / 2**30:.2f} GiB beside the model{on_fullest(self.devices)} "
            f"({self.held_bytes / 2**30:.2f} held, {self.working_bytes / 2**30:.2f} to work in), "
            f"{self.disk_bytes / 2**20:.0f} MiB of results; {self.flop / 1e12:.2f} TFLOP for the passes, "
            f"{self.forming_flop / 1e12:.2f} to form gradients and {self.pair_flop / 1e12:.2f} for their products."
            f"{self._describe_preconditioners()}{self._describe_kept()}"
        )

    def _describe_kept(self) -> str:
        if not self.kept:
            return ""
        return (
            f" Gradients of {len(self.kept)} originals stay in the host's memory ({self.host_bytes / 2**30:.2f} GiB), from "
            f"where they come {self.fetches} times instead of being computed again."
        )

    def _describe_preconditioners(self) -> str:
        if not self.preconditioner_bytes:
            return ""
        where = (
            "stay on the device"
            if self.preconditioners_kept
            else "are more than fits beside the gradients, so that layers are done in turn and theirs come to the device for every tile"
        )
        return f" Preconditioners of {self.preconditioner_bytes / 2**30:.2f} GiB {where}."


def on_fullest(devices: int) -> str:
    """What is said behind bytes of a device where the model is spread over several."""
    return f" on the fullest of {devices} devices" if devices > 1 else ""


def plan_pass(
    shape: ModelShape,
    graph: PassGraph,
    memory_bytes: int,
    options: PassOptions | None = None,
) -> Plan:
    """The cheapest plan that fits `memory_bytes` beside the model.

    Raises:
        TooLittleMemoryError: not even one variant and one original fit.
    """
    options = options or PassOptions()
    profile = options.profile or profile_of(options.device, shape.dtype, options.precision)
    choices = _choices_of_factors(shape, graph, options)
    keep = most_preconditioner_bytes(shape, graph) <= KEPT_SHARE * memory_bytes

    def memories(beyonds: Iterable[int | None]) -> list[MemoryModel]:
        return [MemoryModel.of(shape, graph, factored, profile, keep, one) for one in beyonds for factored in choices]

    def planned_with(beyonds: Iterable[int | None]) -> list[tuple[_Planner, Plan]]:
        planners = [_Planner(memory, memory_bytes, options) for memory in memories(beyonds)]
        return [(planner, plan) for planner in planners if (plan := planner.plan(improve=False))]

    wanted = options.checkpoint_beyond if shape.checkpointed else None
    planned = planned_with([None if wanted == "auto" else wanted])
    if wanted == "auto" and all(plan.passes > graph.minimum for _, plan in planned):
        planned += planned_with(dict.fromkeys(int(share * graph.longest) for share in CHECKPOINTED_SHARES))
    if not planned:
        beyond = 0 if wanted == "auto" else wanted
        least = min(memory.least_bytes() for memory in memories([beyond]))
        raise TooLittleMemoryError(
            f"the pass needs at least {least / 2**30:.2f} GiB beside the model{on_fullest(shape.device_count)} for one pair of "
            f"samples, but {memory_bytes / 2**30:.2f} GiB are allowed; raise the memory limit or shorten the longest samples."
        )
    most = ABOUT_AS_CHEAP * min(plan.expected_seconds for _, plan in planned)
    best, plan = min(((q, p) for q, p in planned if p.expected_seconds <= most), key=lambda one: one[1].passes)
    improved = best.plan(improve=True)
    return min([plan, *([improved] if improved else [])], key=lambda one: (one.passes, one.expected_seconds))


def _choices_of_factors(shape: ModelShape, graph: PassGraph, options: PassOptions) -> list[frozenset[int]]:
    """Candidates for what is held as factors: nothing, everything, and what is smaller that way."""
    if options.form != "auto":
        return [shape.factorable if options.form == "factored" else frozenset()]
    lengths = [length for variants in graph.variants.values() for length in variants.values()]
    tokens, labelled = (float(np.mean([x[i] for x in lengths])) if lengths else 0.0 for i in (0, 1))

    def worth(number: int) -> float:
        """Numbers saved by holding factors, per FLOP of a pair's product."""
        component = shape.components[number]
        factors = [(labelled if one.labelled else tokens, one.left + one.right) for one in component.factors]
        saved = component.size - sum(length * numbers for length, numbers in factors)
        return saved / sum(length**2 * numbers for length, numbers in factors)

    order = sorted((number for number in shape.factorable if worth(number) > 0), key=lambda n: (-worth(n), n))
    chosen = [frozenset(order[: round(len(order) * share)]) for share in FACTORED_SHARES]
    return list(dict.fromkeys([*chosen, shape.factorable]))


def batch_tokens_within(memory: MemoryModel, memory_bytes: int, options: PassOptions) -> int:
    """Padded tokens of a batch where so much memory is allowed; 0 for one sample at a time."""
    if not memory.shape.batchable:
        return 0
    if options.batch_tokens is not None:
        return options.batch_tokens
    # As many tokens as the longest sample has take no more memory than that sample alone.
    # One that is computed again has a batch of its own, for the cost of that is counted by samples.
    beyond = memory.checkpoint_beyond
    longest = memory.graph.longest if beyond is None else min(memory.graph.longest, beyond)
    most = max(memory_bytes * WORKING_SHARE, memory.passing_bytes(longest, longest, longest))
    sizes = (n for n in memory.profile.batch_tokens if beyond is None or n <= beyond)
    fitting = (n for n in sizes if memory.passing_bytes(n, n, n) <= most)
    return next(fitting, 0)


class _Planner:
    """One choice of what is held as factors, planned through."""

    def __init__(self, memory: MemoryModel, memory_bytes: int, options: PassOptions) -> None:
        self.memory, self.memory_bytes, self.options = memory, memory_bytes, options
        self.shape, self.graph = memory.shape, memory.graph

    def plan(self, improve: bool) -> Plan | None:
        """The plan, with blocks grown greedily and then improved if asked to; None if one pair does not fit."""
        least = self.memory.least_bytes()
        if least > self.memory_bytes:
            return None
        sizes = self._sizes()
        more = self.memory.working_bytes(*sizes) - self.memory.working_bytes(1, 0, 0)
        if least + more > self.memory_bytes:
            sizes, more = _Sizes(1, 0, 0), 0  # what was asked for does not fit
        allowed: float = self.memory_bytes
        plan = self._costed(self._blocks(sizes, allowed, improve), sizes)
        for _ in range(TRIES):
            if plan.memory_bytes <= self.memory_bytes:
                break
            # Samples that go through in one batch are padded to the longest of it, which blocks do not know yet.
            allowed = max(least + more, allowed * self.memory_bytes / plan.memory_bytes)
            plan = self._costed(self._blocks(sizes, allowed, improve), sizes)
        return plan

    def _blocks(self, sizes: "_Sizes", memory_bytes: float, improve: bool) -> list[list[VariantKey]]:
        working_bytes = cache(lambda longest: self.memory.working_bytes(*sizes, longest))  # asked a million times
        budget = MemoryBudget(memory_bytes, working_bytes)
        keys, groups = _variant_groups(self.memory, budget)
        return [[key for number in block for key in keys[number]] for block in make_blocks(groups, budget, improve)]

    def _sizes(self) -> "_Sizes":
        batch_tokens = batch_tokens_within(self.memory, self.memory_bytes, self.options)
        share = self.memory_bytes * WORKING_SHARE
        one, token = self.memory.sample_bytes, self.memory.token_bytes
        tile = max(1, min(self.memory.profile.tile, len(self.graph.originals), int(share // max(1, one))))
        tokens = int(share // max(1, token))
        return _Sizes(self.options.tile or tile, max(batch_tokens, tokens), batch_tokens)

    def _costed(self, blocks: list[list[VariantKey]], sizes: "_Sizes") -> Plan:
        """The plan of these blocks, with what it takes."""
        graph = self.graph
        plan = Plan(
            blocks=blocks,
            factored=self.memory.factored,
            tile=sizes.tile,
            tile_tokens=sizes.tile_tokens,
            batch_tokens=sizes.batch_tokens,
            batch_overhead_tokens=self.memory.profile.batch_overhead_tokens,
            passes=0,
            minimum_passes=graph.minimum,
            pairs=sum(map(len, graph.pairs.values())),
            tokens=0,
            held_bytes=0,
            working_bytes=0,
            disk_bytes=0,
            flop=0,
            forming_flop=0,
            pair_flop=0,
            expected_seconds=0,
            product_rate=self.memory.profile.product_rate,
            preconditioner_bytes=preconditioner_bytes(self.shape, graph),
            preconditioners_kept=self.memory.keeps_preconditioners,
            checkpoint_beyond=self.memory.checkpoint_beyond,
            devices=self.shape.device_count,
        )
        plan = replace(plan, kept=kept_originals(self.memory, blocks, originals_of(graph), self.options.host_bytes))
        flow = self._flow(plan)
        held, working = max(flow.needs, key=sum, default=(0, 0))
        distinct = [*graph.originals.values(), *(own for of in graph.variants.values() for own in of.values())]
        work = work_of_pass(self.memory, flow.passing, distinct, flow.batches, flow.host_traffic)
        return replace(
            plan,
            passes=len(flow.passing),
            tokens=sum(n for n, _ in flow.passing),
            held_bytes=held,
            working_bytes=working,
            disk_bytes=_results(graph) * len(self.shape.components) * RESULT_BYTES,
            flop=work.pass_flop,
            forming_flop=work.forming_flop,
            pair_flop=work.product_flop,
            expected_seconds=work.seconds(self.memory.profile, flop_per_token(self.memory)),
            host_bytes=sum(self.memory.stored_bytes(graph.originals[name]) for name in plan.kept),
            fetches=flow.fetches,
            host_traffic=flow.host_traffic,
        )

    def _flow(self, plan: Plan) -> "_Flow":
        """Block by block, what goes through the model and what comes from the host's memory instead."""
        graph, partners, on_host = self.graph, originals_of(self.graph), set[str]()
        flow = _Flow([], [], 0, 0, 0)
        for block in plan.blocks:
            variants = sorted((graph.variants[setting][name] for setting, name in block), reverse=True)
            names = sorted({original for key in block for original in partners[key]})
            originals = sorted((graph.originals[name] for name in names if name not in on_host), reverse=True)
            fetched = sorted((graph.originals[name] for name in names if name in on_host), reverse=True)
            kept = plan.kept.intersection(names)
            on_host |= kept
            flow.needs.append(self._needs(plan, variants, originals, fetched))
            flow.passing.extend(variants + originals)
            flow.batches += len(plan.batches([n for n, _ in variants])) + len(plan.batches([n for n, _ in originals]))
            flow.fetches += len(fetched)
            flow.host_traffic += sum(self.memory.stored_bytes(graph.originals[name]) for name in kept)
        return flow

    def _needs(
        self, plan: Plan, variants: list[Lengths], originals: list[Lengths], fetched: list[Lengths]
    ) -> tuple[int, int]:
        """Bytes that a block holds, and those that it works in."""
        computed = [[originals[part] for part in tile] for tile in plan.tiles([n for n, _ in originals])]
        come = [[fetched[part] for part in tile] for tile in plan.tiles_of_fetched([n for n, _ in fetched])]
        held = [variants[part] for part in plan.batches([n for n, _ in variants])]
        longest = max(n for n, _ in [variants[0], *originals[:1], *fetched[:1]])
        return self.memory.needs(held, computed, come, longest)


def _results(graph: PassGraph) -> int:
    """Pairs, once for plain products and once for each preconditioner."""
    return sum(len(pairs) * (1 + len(graph.preconditioned.get(s, ()))) for s, pairs in graph.pairs.items())


@dataclass
class _Flow:
    """What goes through a pass."""

    #: By block: bytes that it holds, and those that it works in.
    needs: list[tuple[int, int]]
    #: Samples whose gradients are computed, and the batches that they go in.
    passing: list[Lengths]
    batches: int
    #: Gradients that come from the host's memory, and the bytes that go there or come from there.
    fetches: int
    host_traffic: int


class _Sizes(NamedTuple):
    """How much is done at a time: see `Plan`."""

    tile: int
    tile_tokens: int
    batch_tokens: int


def _variant_groups(memory: MemoryModel, budget: MemoryBudget) -> tuple[list[list[VariantKey]], list[VariantGroup]]:
    """Variants that go together: those of one id, which share most candidates, unless they do not fit together."""
    graph, partners = memory.graph, originals_of(memory.graph)
    numbers = {original: number for number, original in enumerate(graph.originals)}
    by_id: dict[str, list[VariantKey]] = {}
    for key in partners:
        by_id.setdefault(key[1], []).append(key)

    def group(keys: list[VariantKey]) -> VariantGroup:
        originals = sorted({original for key in keys for original in partners[key]})
        lengths = [graph.variants[setting][variant] for setting, variant in keys]
        longest = max([n for n, _ in lengths] + [graph.originals[original][0] for original in originals])
        return VariantGroup(
            sum(map(memory.held_bytes, lengths)), np.asarray([numbers[original] for original in originals]), longest
        )

    keys = [one for own in by_id.values() for one in ([own] if budget.fits([group(own)]) else [[key] for key in own])]
    return keys, [group(one) for one in keys]
