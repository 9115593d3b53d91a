"""The pass: every distinct sample's gradient as few times as memory allows, all products and projections out of it."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from gradsim_assets.core.engine.check import default_tolerance, plain_products, relative_error, verify_sites
from gradsim_assets.core.engine.memory import free_bytes, peak_bytes, ran_out
from gradsim_assets.core.engine.plan import PassGraph, Plan, VariantKey, originals_of, plan_pass
from gradsim_assets.core.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.engine.scratch import Scratch, fingerprint
from gradsim_assets.core.engine.shape import measure
from gradsim_assets.core.engine.store import Layout, Store, products, projected_cosines
from gradsim_assets.core.engine.tap import Tap
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.projections import make_projector, stable_seed, total_dimension
from gradsim_assets.core.tokenization import EncodedSample

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]

ORIGINAL = "original"


class GradientPass:
    """One pass over a request; iterate over `blocks()`, then read `report` and `losses`.

    Raises:
        InputError: nothing is trainable, a projection is unknown, or memory does not suffice for one pair of samples.
    """

    def __init__(self, model: torch.nn.Module, request: PassRequest, options: PassOptions | None = None) -> None:
        self.model, self.request, self.options = model, request, options or PassOptions()
        self.device = torch.device(self.options.device)
        self.graph = PassGraph.of(request)
        self._tap = Tap(model, self.device)
        self.components = self._tap.names
        self.parameters = [parameter.numel() for parameter in self._tap.parameters]
        self.dimensions = {p: total_dimension(self.parameters, p) for p in self.graph.proportions}
        self.losses: dict[str, dict[str, float]] = {ORIGINAL: {}, **{s: {} for s in request.settings}}
        self.report = PassReport(samples=self.graph.minimum)
        self._originals = {sample.id: sample for sample in request.originals}
        self._variants = {(s, v.id): v for s in request.settings for v in request.variants[s]}
        self._rows = _rows_by_pair(request)
        self._checks = _pairs_to_check(request, self.options.check_pairs)
        self._projectors = {
            p: [
                make_projector(
                    name,
                    size,
                    p,
                    self.options.projection_seed,
                    self.options.projection_kind,
                    self.options.weighting,
                    self.device,
                )
                for name, size in zip(self.components, self.parameters, strict=True)
            ]
            for p in self.graph.proportions
        }
        self.plan: Plan | None = None
        self._batch_tokens = 0
        self._expected = 0

    def blocks(self, progress: Progress | None = None) -> Iterator[PairBlock]:
        """Finished rows, block by block; every row of every wanted setting comes exactly once.

        Raises:
            InputError: the memory does not suffice for one pair of samples.
            ArithmeticError: the rows that were recomputed by plain autograd differ by more than the tolerance.
        """
        started = time.perf_counter()
        if not self.graph.minimum:
            return
        shortest = min([*self._originals.values(), *self._variants.values()], key=lambda sample: sample.length)
        self.report.notes += verify_sites(self._tap, shortest)
        scratch = self._open_scratch()
        self.plan = scratch.plan(self._make_plan) if scratch else self._make_plan()
        self._batch_tokens, self._expected = self.plan.batch_tokens, self.plan.passes
        self.report.plan = self.plan.describe()
        found: dict[tuple[str, int], np.ndarray] = {}
        number = 0
        while number < len(self.plan.blocks):
            for rows in self._block(number, scratch, progress):
                self._note_checked(rows, found)
                self.report.pairs += len(rows.rows)
                yield rows
            number += 1
        self.report.blocks = number
        self._check(found)
        self.report.seconds = time.perf_counter() - started
        self.report.peak_memory_bytes = peak_bytes(self.device)

    def _open_scratch(self) -> Scratch | None:
        if self.options.scratch is None:
            return None
        name = fingerprint(self.components, self._tap.parameters, self.request, self.options)
        return Scratch(self.options.scratch, name)

    def _make_plan(self) -> Plan:
        memory = self.options.memory_bytes
        return plan_pass(
            measure(self._tap), self.graph, free_bytes(self.device) if memory is None else memory, self.options
        )

    def _block(self, number: int, scratch: Scratch | None, progress: Progress | None) -> Iterator[PairBlock]:
        """Rows of one block, from disk if they are there; on running out of memory with less at a time."""
        assert self.plan is not None
        if scratch and scratch.finished(number):
            self.report.blocks_restored += 1
            yield from scratch.load(number, self.losses)
            return
        part = 0
        while True:
            before = {group: set(values) for group, values in self.losses.items()}
            done = 0
            try:
                for rows in self._compute(self.plan.blocks[number], progress):
                    done += 1
                    if done > part:  # rows before were yielded ahead of running out of memory
                        part = done
                        if scratch:
                            scratch.save(number, part - 1, rows)
                        yield rows
                break
            except Exception as error:
                if not ran_out(error):
                    raise
            self._use_less(number, part > 0, scratch)
        if scratch:
            scratch.finish(number, part, {g: {i: v[i] for i in v.keys() - before[g]} for g, v in self.losses.items()})

    def _use_less(self, number: int, begun: bool, scratch: Scratch | None) -> None:
        """Halves the batch, then the block; the tiles stay, so that rows that are out need not be told apart."""
        assert self.plan is not None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        block = self.plan.blocks[number]
        if self._batch_tokens > 0:
            self._batch_tokens = self._batch_tokens // 2 if self._batch_tokens > 64 else 0
            self.report.notes.append(f"out of memory: batches halved to {self._batch_tokens or 'one sample'} tokens")
        elif len(block) > 1 and not begun:
            half = len(block) // 2
            blocks = [*self.plan.blocks[:number], block[:half], block[half:], *self.plan.blocks[number + 1 :]]
            self.plan = scratch.replan(self.plan, blocks) if scratch else _with_blocks(self.plan, blocks)
            self.report.notes.append(f"out of memory: block {number} halved to {half} held variants")
        else:
            raise InputError(
                "the device ran out of memory with one sample at a time; use a device with more memory, "
                "or shorten the longest samples."
            )

    def _compute(self, block: list[VariantKey], progress: Progress | None) -> Iterator[PairBlock]:
        assert self.plan is not None
        layout = Layout(
            self._tap.shapes,
            self.plan.factored & self._tap.factorable,
            self._projectors,
            self._tap.dtype,
            self.device,
            bool(self.request.products),
        )
        slots = {key: slot for slot, key in enumerate(sorted(block, key=lambda k: (-self._variants[k].length, k)))}
        held = Store(layout, len(slots))
        self._fill(held, [(setting, self._variants[setting, variant]) for setting, variant in slots], progress)
        partners = originals_of(self.graph)
        names = sorted({o for key in block for o in partners[key]}, key=lambda o: (-self._originals[o].length, o))
        users: dict[str, list[VariantKey]] = {}
        for key in slots:
            for original in partners[key]:
                users.setdefault(original, []).append(key)
        streamed = Store(layout, min(self.plan.tile, len(names)))
        for start in range(0, len(names), self.plan.tile):
            tile = names[start : start + self.plan.tile]
            streamed.clear()
            self._fill(streamed, [(ORIGINAL, self._originals[name]) for name in tile], progress)
            yield from self._meet(held, streamed, slots, {name: users[name] for name in tile})

    def _fill(self, store: Store, samples: Sequence[tuple[str, EncodedSample]], progress: Progress | None) -> None:
        """Draws the gradients of samples (of falling length) into the next slots of a store."""
        with self._tap.open():
            for batch in _batches(samples, self._batch_tokens if self._tap.batchable else 0):
                store.begin(len(batch))
                losses = self._tap.backward([sample for _, sample in batch], store)
                store.finish(len(batch))
                for (group, sample), loss in zip(batch, losses, strict=True):
                    self.losses[group][sample.id] = loss
                self.report.gradients_computed += len(batch)
                if progress:
                    done = min(self.report.gradients_computed, self._expected)
                    progress(done, self._expected, batch[0][0])
        store.sketch()

    def _meet(
        self, held: Store, streamed: Store, slots: dict[VariantKey, int], users: dict[str, list[VariantKey]]
    ) -> Iterator[PairBlock]:
        """Rows of all pairs of a tile of originals with the held variants."""
        for setting in self.request.settings:
            met = [(key, name, other) for other, name in enumerate(users) for key in users[name] if key[0] == setting]
            if not met:
                continue
            ones, others = np.asarray([slots[key] for key, _, _ in met]), np.asarray([other for _, _, other in met])
            wanted = setting in self.request.products
            repeats = [self._rows[setting][key[1], name] for key, name, _ in met]
            take = np.repeat(np.arange(len(met)), [len(rows) for rows in repeats])
            yield PairBlock(
                setting,
                np.concatenate([np.asarray(rows) for rows in repeats]),
                products(held, streamed, ones, others)[take] if wanted else None,
                held.selves_of(ones.tolist())[take] if wanted else None,
                streamed.selves_of(others.tolist())[take] if wanted else None,
                {
                    p: projected_cosines(held, streamed, ones, others, p)[take]
                    for p in self.request.projections.get(setting, ())
                },
            )

    def _note_checked(self, rows: PairBlock, found: dict[tuple[str, int], np.ndarray]) -> None:
        if rows.dot_products is None:
            return
        assert rows.variant_self is not None and rows.original_self is not None
        for position in np.flatnonzero(np.isin(rows.rows, self._checks.get(rows.setting, []))):
            found[rows.setting, int(rows.rows[position])] = np.stack(
                [rows.dot_products[position], rows.variant_self[position], rows.original_self[position]]
            )

    def _check(self, found: dict[tuple[str, int], np.ndarray]) -> None:
        """Recomputes rows by plain autograd and compares."""
        self.report.tolerance = self.options.tolerance or default_tolerance(self._tap.parameters[0].dtype)
        self.report.checked_pairs = len(found)
        if not found:
            return
        pairs = []
        for setting, row in found:
            variant, original = self.request.pairs[setting][row]
            pairs.append((self._variants[setting, variant], self._originals[original]))
        exact = plain_products(self.model, pairs, self._tap.parameters, self.device)
        one, other = exact[:, 1], exact[:, 2]
        results = np.stack(list(found.values()))
        error = np.maximum.reduce(
            [
                relative_error(results[:, 0], exact[:, 0], one, other),
                relative_error(results[:, 1], one, one, one),
                relative_error(results[:, 2], other, other, other),
            ]
        )
        self.report.max_relative_error = float(error.max())
        if not self.report.max_relative_error <= self.report.tolerance:
            place = np.unravel_index(np.nanargmax(error), error.shape)
            setting, position = list(found)[int(place[0])]
            raise ArithmeticError(
                f"{setting}, pair {self.request.pairs[setting][position]}, {self.components[int(place[1])]}: the product "
                f"differs from plain autograd by {self.report.max_relative_error:.1e} of the gradients' lengths "
                f"(tolerance {self.report.tolerance:.1e}); nothing of this run is to be trusted."
            )


def _with_blocks(plan: Plan, blocks: list[list[VariantKey]]) -> Plan:
    return replace(plan, blocks=blocks)


def _rows_by_pair(request: PassRequest) -> dict[str, dict[tuple[str, str], list[int]]]:
    found: dict[str, dict[tuple[str, str], list[int]]] = {}
    for setting in request.settings:
        rows = found.setdefault(setting, {})
        for row, pair in enumerate(request.pairs[setting]):
            rows.setdefault((pair[0], pair[1]), []).append(row)
    return found


def _pairs_to_check(request: PassRequest, count: int) -> dict[str, list[int]]:
    """`count` rows spread over the settings, the same in every run of a request."""
    places = [(s, row) for s in request.settings if s in request.products for row in range(len(request.pairs[s]))]
    chosen = np.random.default_rng(stable_seed("check", len(places))).permutation(len(places))[:count]
    rows: dict[str, list[int]] = {}
    for place in chosen:
        rows.setdefault(places[place][0], []).append(places[place][1])
    return rows


def _batches(
    samples: Sequence[tuple[str, EncodedSample]], tokens: int
) -> Iterator[Sequence[tuple[str, EncodedSample]]]:
    """Runs of samples whose padded size is at most `tokens`, or one sample."""
    start = 0
    while start < len(samples):
        end, longest = start + 1, samples[start][1].length
        while end < len(samples):
            longest = max(longest, samples[end][1].length)
            if longest * (end + 1 - start) > tokens:
                break
            end += 1
        yield samples[start:end]
        start = end


def run_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """The whole pass at once; rows in the order of `request.pairs`. For large requests use `GradientPass.blocks`.

    Raises:
        InputError: nothing is trainable, a setting or proportion is unknown, or the memory does not suffice.
        ArithmeticError: what was recomputed by plain autograd differs by more than the tolerance.
    """
    work = GradientPass(model, request, options)
    count = len(work.components)
    dots = {s: np.full((len(request.pairs[s]), count), np.nan) for s in request.settings if s in request.products}
    variant_self = {s: np.full_like(values, np.nan) for s, values in dots.items()}
    original_self = {s: np.full_like(values, np.nan) for s, values in dots.items()}
    projected = {
        s: {p: np.full(len(request.pairs[s]), np.nan) for p in request.projections[s]}
        for s in request.settings
        if request.projections.get(s)
    }
    for block in work.blocks(progress):
        if block.setting in dots:
            dots[block.setting][block.rows] = block.dot_products
            variant_self[block.setting][block.rows] = block.variant_self
            original_self[block.setting][block.rows] = block.original_self
        for proportion, values in block.projected.items():
            projected[block.setting][proportion][block.rows] = values
    return PassResult(
        work.components,
        work.parameters,
        dots,
        variant_self,
        original_self,
        projected,
        work.dimensions,
        work.losses,
        work.report,
    )
