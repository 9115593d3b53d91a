"""The pass: every distinct sample's gradient as few times as memory allows, all products and projections out of it."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.block_gradients import BlockGradients
from gradsim_assets.core.gradients.engine.device_profile import profile_of
from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import Plan, plan_pass
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.gradients.engine.request import PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.results import Results
from gradsim_assets.core.gradients.engine.scratch import Scratch, fingerprint
from gradsim_assets.core.gradients.engine.values.gradient_hooks import GradientHooks
from gradsim_assets.core.gradients.engine.values.precision import default_tolerance, matmul_precision
from gradsim_assets.core.gradients.engine.verification import rows_to_check, verify_hooks, verify_products
from gradsim_assets.core.gradients.projections import Projector, make_projector, total_dimension
from gradsim_assets.core.memory import free_bytes, peak_bytes

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]

#: Called with the plan before the pass, and with whatever turns out otherwise than planned.
Log = Callable[[str], None]


def _unheard(*said: object) -> None:
    """Takes the place of a listener that was not given."""


class GradientPass:
    """One pass over a request: `run` does it, `plan` and `report` say how it goes.

    Raises:
        InputError: nothing is trainable, or a projection is unknown.
    """

    def __init__(self, model: torch.nn.Module, request: PassRequest, options: PassOptions | None = None) -> None:
        self.request, self.options = request, options or PassOptions()
        self.device = torch.device(self.options.device)
        self.graph = PassGraph.of(request)
        self.plan: Plan | None = None
        self.report = PassReport(samples=self.graph.minimum)
        self._hooks = GradientHooks(model, self.device)
        self._index = PairIndex(request)
        self.profile = self.options.profile or profile_of(
            self.device, self._hooks.parameters[0].dtype, self.options.precision
        )
        self._gradients = BlockGradients(
            self._hooks, self._index, request, self._projectors(), self.profile, self._count
        )
        self._progress: Progress = _unheard
        self._log: Log = _unheard
        #: Gradients that this try is to compute.
        self._expected = 0

    def _projectors(self) -> dict[float, list[Projector]]:
        """By proportion: the projector of each component."""
        options, named = self.options, list(zip(self._hooks.names, self._sizes, strict=True))
        return {
            p: [
                make_projector(
                    name, size, p, options.projection_seed, options.projection_kind, options.weighting, self.device
                )
                for name, size in named
            ]
            for p in self.graph.proportions
        }

    @property
    def _sizes(self) -> list[int]:
        """Number of parameters of each component."""
        return [parameter.numel() for parameter in self._hooks.parameters]

    def run(self, progress: Progress | None = None, log: Log | None = None) -> PassResult:
        """Does the pass, or what is left of it where `scratch` holds finished blocks.

        Raises:
            InputError: the memory does not suffice for one pair of samples, or the disk not for the results.
            ArithmeticError: the rows that were recomputed by plain autograd differ by more than the tolerance.
        """
        started = time.perf_counter()
        self._progress, self._log = progress or _unheard, log or _unheard
        scratch = self._open_scratch()
        results = Results(self.request, len(self._hooks.names), scratch)
        if self.graph.minimum:
            self.plan = self._prepare(scratch)
            with matmul_precision(self.options.precision, self.device):
                while self.report.blocks < len(self.plan.blocks):  # running out of memory makes them more
                    self.plan = self._block(self.report.blocks, self.plan, results, scratch)
                    self.report.blocks += 1
            self.report.pairs = sum(len(self.request.pairs[setting]) for setting in self.request.settings)
            self._check(results)
        self.report.seconds = time.perf_counter() - started
        self.report.peak_memory_bytes = peak_bytes(self.device)
        return self._result(results)

    def _result(self, results: Results) -> PassResult:
        return PassResult(
            components=self._hooks.names,
            parameters=self._sizes,
            dot_products=results.of("dot_product"),
            variant_self=results.of("variant_self"),
            original_self=results.of("original_self"),
            projected=results.projected,
            dimensions={p: total_dimension(self._sizes, p) for p in self.graph.proportions},
            losses=self._gradients.losses,
            report=self.report,
        )

    def _open_scratch(self) -> Scratch | None:
        if self.options.scratch is None:
            return None
        name = fingerprint(self._hooks.names, self._hooks.parameters, self.request, self.options)
        return Scratch(self.options.scratch, name)

    def _prepare(self, scratch: Scratch | None) -> Plan:
        """The plan of a pass through a model whose hooks are known to be right."""
        verify_hooks(self._hooks, self._index.shortest, self._note)
        plan = scratch.plan(self._make_plan) if scratch else self._make_plan()
        self.report.plan = plan.describe()
        self._log(self.report.plan)
        self._expected = sum(
            len(block) + len(self._index.originals_met_by(block))
            for number, block in enumerate(plan.blocks)
            if not (scratch and scratch.finished(number))
        )
        return plan

    def _make_plan(self) -> Plan:
        memory = self.options.memory_bytes
        return plan_pass(
            measure(self._hooks),
            self.graph,
            free_bytes(self.device, "most") if memory is None else memory,
            replace(self.options, profile=self.profile),
        )

    def _block(self, number: int, plan: Plan, results: Results, scratch: Scratch | None) -> Plan:
        """Computes one block, unless it is there; returns the plan, which does less at a time if memory ran out."""
        if scratch and scratch.finished(number):
            self.report.blocks_restored += 1
            self._gradients.restore(plan.blocks[number], scratch.losses(number), results)
            return plan
        while not fits_in_memory(partial(self._compute, number, plan, results), self.device):
            plan = plan.with_less(number, self._note)
            if scratch:
                scratch.replan(plan)
        if scratch:
            results.flush()
            scratch.finish(number, self._gradients.losses_of(plan.blocks[number]))
        return plan

    def _compute(self, number: int, plan: Plan, results: Results) -> None:
        for rows in self._gradients.compute(plan.blocks[number], plan):
            results.put(rows)

    def _check(self, results: Results) -> None:
        """Recomputes some rows by plain autograd and compares."""
        rows = rows_to_check(self.request, self.options.check_pairs)
        dtype = self._hooks.parameters[0].dtype
        self.report.tolerance = self.options.tolerance or default_tolerance(dtype, self.options.precision)
        self.report.checked_pairs = len(rows)
        if rows:
            found = np.stack([results.row(setting, row) for setting, row in rows])
            pairs = [self._index.pair(setting, row) for setting, row in rows]
            names = [f"{setting}, pair {self.request.pairs[setting][row]}" for setting, row in rows]
            self.report.max_relative_error = verify_products(self._hooks, pairs, found, names, self.report.tolerance)

    def _count(self, samples: int, what: str) -> None:
        self.report.gradients_computed += samples
        # What is computed again for want of memory is no progress.
        self._progress(min(self.report.gradients_computed, self._expected), self._expected, what)

    def _note(self, note: str) -> None:
        self.report.notes.append(note)
        self._log(note)


def run_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> PassResult:
    """One pass over a request; raises as `GradientPass` and its `run`."""
    return GradientPass(model, request, options).run(progress, log)
