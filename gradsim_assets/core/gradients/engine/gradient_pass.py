"""The pass: every distinct sample's gradient as few times as memory allows, all products and projections out of it."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph, VariantKey, originals_of
from gradsim_assets.core.gradients.engine.planning.plan import Plan, plan_pass
from gradsim_assets.core.gradients.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.results import TERMS, Results
from gradsim_assets.core.gradients.engine.scratch import Losses, Scratch, fingerprint
from gradsim_assets.core.gradients.engine.values.gradient_hooks import Tap
from gradsim_assets.core.gradients.engine.values.held_gradients import Layout, Store, products, projected_cosines
from gradsim_assets.core.gradients.engine.values.precision import default_tolerance, matmul_precision
from gradsim_assets.core.gradients.engine.verification import (
    pairs_to_check,
    plain_products,
    relative_error,
    verify_sites,
)
from gradsim_assets.core.gradients.projections import make_projector, total_dimension
from gradsim_assets.core.memory import free_bytes, peak_bytes, ran_out
from gradsim_assets.core.models.tokenization import EncodedSample

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]

#: Called with the plan before the pass, and with whatever turns out otherwise than planned.
Log = Callable[[str], None]

ORIGINAL = "original"


class GradientPass:
    """One pass over a request: `run` does it; `plan` and `report` say how it goes.

    Raises:
        InputError: nothing is trainable, or a projection is unknown.
    """

    def __init__(self, model: torch.nn.Module, request: PassRequest, options: PassOptions | None = None) -> None:
        self.model, self.request, self.options = model, request, options or PassOptions()
        self.device = torch.device(self.options.device)
        self.graph = PassGraph.of(request)
        self._tap = Tap(model, self.device)
        self.components = self._tap.names
        self.parameters = [parameter.numel() for parameter in self._tap.parameters]
        self.dimensions = {p: total_dimension(self.parameters, p) for p in self.graph.proportions}
        self.losses: Losses = {ORIGINAL: {}, **{s: {} for s in request.settings}}
        self.report = PassReport(samples=self.graph.minimum)
        self._originals = {sample.id: sample for sample in request.originals}
        self._variants = {(s, v.id): v for s in request.settings for v in request.variants[s]}
        self._rows = _rows_by_pair(request)
        self._partners = originals_of(self.graph)
        self._checks = pairs_to_check(request, self.options.check_pairs)
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
        self._log: Log | None = None
        self._batch_tokens = 0
        self._expected = 0

    def run(self, progress: Progress | None = None, log: Log | None = None) -> PassResult:
        """Does the pass, or what is left of it where `scratch` holds finished blocks.

        Raises:
            InputError: the memory does not suffice for one pair of samples, or the disk not for the results.
            ArithmeticError: the rows that were recomputed by plain autograd differ by more than the tolerance.
        """
        started = time.perf_counter()
        self._log = log
        scratch = self._open_scratch()
        self.results = Results(self.request, len(self.components), scratch)
        if self.graph.minimum:
            self._prepare(scratch)
            with matmul_precision(self.options.precision, self.device):
                self._blocks(scratch, progress)
            self._check()
        self.report.seconds = time.perf_counter() - started
        self.report.peak_memory_bytes = peak_bytes(self.device)
        return PassResult(
            components=self.components,
            parameters=self.parameters,
            dot_products=self.results.of("dot_product"),
            variant_self=self.results.of("variant_self"),
            original_self=self.results.of("original_self"),
            projected=self.results.projected,
            dimensions=self.dimensions,
            losses=self.losses,
            report=self.report,
        )

    def _prepare(self, scratch: Scratch | None) -> None:
        shortest = min([*self._originals.values(), *self._variants.values()], key=lambda sample: sample.length)
        for note in verify_sites(self._tap, shortest):
            self._note(note)
        self.plan = scratch.plan(self._make_plan) if scratch else self._make_plan()
        self.report.plan = self.plan.describe()
        if self._log:
            self._log(self.report.plan)
        self._batch_tokens = self.plan.batch_tokens
        self._expected = sum(
            len(block) + len(self._streamed(block))
            for number, block in enumerate(self.plan.blocks)
            if not (scratch and scratch.finished(number))
        )

    def _note(self, note: str) -> None:
        self.report.notes.append(note)
        if self._log:
            self._log(note)

    def _blocks(self, scratch: Scratch | None, progress: Progress | None) -> None:
        assert self.plan is not None
        while self.report.blocks < len(self.plan.blocks):  # running out of memory makes them more
            self._block(self.report.blocks, scratch, progress)
            self.report.blocks += 1
        self.report.pairs = sum(len(self.request.pairs[setting]) for setting in self.request.settings)

    def _open_scratch(self) -> Scratch | None:
        if self.options.scratch is None:
            return None
        name = fingerprint(self.components, self._tap.parameters, self.request, self.options)
        return Scratch(self.options.scratch, name)

    def _make_plan(self) -> Plan:
        memory = self.options.memory_bytes
        return plan_pass(
            measure(self._tap), self.graph, free_bytes(self.device, "most") if memory is None else memory, self.options
        )

    def _block(self, number: int, scratch: Scratch | None, progress: Progress | None) -> None:
        """One block, unless it is there; with less at a time where memory runs out."""
        assert self.plan is not None
        if scratch and scratch.finished(number):
            self.report.blocks_restored += 1
            for group, values in scratch.losses(number).items():
                self.losses[group].update(values)
            return
        while True:
            try:
                for rows in self._compute(self.plan.blocks[number], progress):
                    self.results.put(rows)
                break
            except Exception as error:
                if not ran_out(error):
                    raise
            self._use_less(number, scratch)
        if scratch:
            self.results.flush()
            scratch.finish(number, self._losses_of(self.plan.blocks[number]))

    def _losses_of(self, block: list[VariantKey]) -> Losses:
        losses: Losses = {ORIGINAL: {name: self.losses[ORIGINAL][name] for name in self._streamed(block)}}
        for setting, variant in block:
            losses.setdefault(setting, {})[variant] = self.losses[setting][variant]
        return losses

    def _use_less(self, number: int, scratch: Scratch | None) -> None:
        """Halves the batch, then the block."""
        assert self.plan is not None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        block = self.plan.blocks[number]
        if self._batch_tokens > 0:
            self._batch_tokens = self._batch_tokens // 2 if self._batch_tokens > 64 else 0
            self._note(f"out of memory: batches halved to {self._batch_tokens or 'one sample'} tokens")
        elif self.plan.tile > 1:
            self.plan = replace(self.plan, tile=self.plan.tile // 2)
            self._note(f"out of memory: tiles halved to {self.plan.tile} originals")
        elif len(block) > 1:
            half = len(block) // 2
            blocks = [*self.plan.blocks[:number], block[:half], block[half:], *self.plan.blocks[number + 1 :]]
            self.plan = replace(self.plan, blocks=blocks)
            self._note(f"out of memory: block {number} halved to {half} held variants")
        else:
            raise InputError(
                "the device ran out of memory with one sample at a time; use a device with more memory, "
                "or shorten the longest samples."
            )
        if scratch:
            scratch.replan(self.plan)

    def _streamed(self, block: list[VariantKey]) -> list[str]:
        """The originals that a block's variants are compared with, longest first."""
        names = {original for key in block for original in self._partners[key]}
        return sorted(names, key=lambda name: (-self._originals[name].length, name))

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
        names = self._streamed(block)
        users: dict[str, list[VariantKey]] = {}
        for key in slots:
            for original in self._partners[key]:
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
            for batch in padded_batches(samples, self._batch_tokens if self._tap.batchable else 0):
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
        """Rows of all pairs of a tile of originals with the held variants; settings share the grids of products."""
        met = [(key, name, other) for other, name in enumerate(users) for key in users[name]]
        ones, others = np.asarray([slots[key] for key, _, _ in met]), np.asarray([other for _, _, other in met])
        settings = np.asarray([setting for (setting, _), _, _ in met])
        exact = np.full((len(met), len(self.components)), np.nan)
        if len(at := np.flatnonzero(np.isin(settings, sorted(self.request.products)))):
            exact[at] = products(held, streamed, ones[at], others[at])
        cosines = {p: np.full(len(met), np.nan) for p in self.graph.proportions}
        for p, found in cosines.items():
            projected = [setting for setting, wanted in self.request.projections.items() if p in wanted]
            if len(at := np.flatnonzero(np.isin(settings, projected))):
                found[at] = projected_cosines(held, streamed, ones[at], others[at], p)
        for setting in np.unique(settings).tolist():
            at = np.flatnonzero(settings == setting)
            repeats = [self._rows[setting][met[place][0][1], met[place][1]] for place in at]
            take = np.repeat(at, [len(rows) for rows in repeats])
            wanted = setting in self.request.products
            yield PairBlock(
                setting,
                np.concatenate([np.asarray(rows) for rows in repeats]),
                exact[take] if wanted else None,
                held.selves_of(ones[take]) if wanted else None,
                streamed.selves_of(others[take]) if wanted else None,
                {p: cosines[p][take] for p in self.request.projections.get(setting, ())},
            )

    def _check(self) -> None:
        """Recomputes rows by plain autograd and compares."""
        self.report.tolerance = self.options.tolerance or default_tolerance(
            self._tap.parameters[0].dtype, self.options.precision
        )
        checked = [(setting, row) for setting, rows in self._checks.items() for row in rows]
        self.report.checked_pairs = len(checked)
        if not checked:
            return
        found = np.stack([[self.results.products[s][term][row] for term in TERMS] for s, row in checked])
        pairs = []
        for setting, row in checked:
            variant, original = self.request.pairs[setting][row]
            pairs.append((self._variants[setting, variant], self._originals[original]))
        exact = plain_products(self.model, pairs, self._tap.parameters, self.device)
        one, other = exact[:, 1], exact[:, 2]
        error = np.maximum.reduce(
            [
                relative_error(found[:, 0], exact[:, 0], one, other),
                relative_error(found[:, 1], one, one, one),
                relative_error(found[:, 2], other, other, other),
            ]
        )
        self.report.max_relative_error = float(error.max())
        if not self.report.max_relative_error <= self.report.tolerance:
            place = np.unravel_index(np.nanargmax(error), error.shape)
            setting, position = checked[int(place[0])]
            raise ArithmeticError(
                f"{setting}, pair {self.request.pairs[setting][position]}, {self.components[int(place[1])]}: the product "
                f"differs from plain autograd by {self.report.max_relative_error:.1e} of the gradients' lengths "
                f"(tolerance {self.report.tolerance:.1e}); nothing of this run is to be trusted."
            )


def _rows_by_pair(request: PassRequest) -> dict[str, dict[tuple[str, str], list[int]]]:
    found: dict[str, dict[tuple[str, str], list[int]]] = {}
    for setting in request.settings:
        rows = found.setdefault(setting, {})
        for row, pair in enumerate(request.pairs[setting]):
            rows.setdefault((pair[0], pair[1]), []).append(row)
    return found


def run_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> PassResult:
    """One pass over a request; raises as `GradientPass` and its `run`."""
    return GradientPass(model, request, options).run(progress, log)
