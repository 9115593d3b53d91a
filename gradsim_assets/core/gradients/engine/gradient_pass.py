"""The pass: every distinct sample's gradient as few times as memory allows, all products and projections out of it."""

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

import torch

from gradsim_assets.core.gradients.engine.block_gradients import BlockGradients
from gradsim_assets.core.gradients.engine.collecting import HooksChangedError
from gradsim_assets.core.gradients.engine.distinct_samples import DistinctSamples
from gradsim_assets.core.gradients.engine.pair_checks import PairChecks, WrongPair
from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape, measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph, VariantKey
from gradsim_assets.core.gradients.engine.planning.plan import Plan, plan_pass
from gradsim_assets.core.gradients.engine.planning.predicted_time import by_figures, predicted_seconds
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.gradients.engine.request import CheckReport, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.results import Results
from gradsim_assets.core.gradients.engine.scratch import Scratch, fingerprint
from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.sample_gradients.calibration import Calibration
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.precision import Arithmetic, matmul_precision
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners
from gradsim_assets.core.sample_gradients.projections import Projector, make_projector, total_dimension
from gradsim_assets.core.sample_gradients.quantised_linear import how_quantised
from gradsim_assets.core.sample_gradients.several_devices import devices_of, least_free_bytes, most_peak_bytes

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]

#: Called with the plan before the pass, and with whatever turns out otherwise than planned.
Log = Callable[[str], None]

#: Called with the seconds that a pass takes by constants: what was measured of the device, if anything was.
Calibrate = Callable[[float], Calibration | None]


def _unheard(*said: object) -> None:
    """Takes the place of a listener that was not given."""


class GradientPass:
    """One pass over a request: `run` does it, `plan` and `report` say how it goes.

    Raises:
        InputError: nothing is trainable, or a projection is unknown.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        request: PassRequest,
        options: PassOptions | None = None,
        preconditioners: Preconditioners | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        self._calibrate: Calibrate = calibrate or (lambda seconds: None)
        #: By the names that the request asks for.
        self.preconditioners = {name: (preconditioners or {})[name] for name in request.preconditioners}
        self.request, self.options = request, options or PassOptions()
        self.device = torch.device(self.options.device)
        self._distinct = DistinctSamples.of(request)
        request = self._distinct.request
        self.graph = PassGraph.of(request)
        self.plan: Plan | None = None
        self.report = PassReport(samples=self.graph.minimum, devices=len(devices_of(model)))
        self._hooks = GradientHooks(model, self.device)
        self._verification = Verification(self._hooks, self._note)
        self._index = PairIndex(request)
        dtype, precision = self._hooks.parameters[0].dtype, self.options.precision
        self.profile = self.options.profile or profile_of(self.device, dtype, precision)
        projectors = self._projectors()
        self._gradients = BlockGradients(
            self._verification, self._index, request, projectors, self.preconditioners, self.profile, self._count
        )
        arithmetic = Arithmetic(self._hooks.plain.arithmetic.dtype, precision)
        self._checks = PairChecks(
            self._verification, self._index, request, projectors, self.preconditioners, arithmetic, self.options
        )
        self._progress: Progress = _unheard
        self._log: Log = _unheard
        #: What tells the seconds of the report.
        self.clock: Callable[[], float] = time.perf_counter
        #: Gradients that this try is to compute.
        self._expected = 0
        #: Blocks that were finished before a later one showed that gradients were wrong.
        self._doubtful: set[int] = set()
        #: Those of them whose variants are in later blocks once more.
        self._done_again: set[int] = set()

    def _projectors(self) -> dict[float, list[Projector]]:
        """By proportion: the projector of each component."""
        options, named = self.options, list(zip(self._hooks.names, self.sizes, self._hooks.devices, strict=True))
        return {
            p: [
                make_projector(
                    name, size, p, options.projection_seed, options.projection_kind, options.weighting, device
                )
                for name, size, device in named
            ]
            for p in self.graph.proportions
        }

    @property
    def names(self) -> list[str]:
        """Of the components, in model order."""
        return self._hooks.names

    @property
    def memory_bytes(self) -> int:
        """What may be held on the device beside the model, or on each of several."""
        allowed = self.options.memory_bytes
        return least_free_bytes(self._devices, "most") if allowed is None else allowed

    @property
    def _devices(self) -> list[torch.device]:
        """Those of the model's weights."""
        return devices_of(self._hooks.model)

    @property
    def planned_with(self) -> PassOptions:
        """The options, with the device's profile."""
        return replace(self.options, profile=self.profile)

    @property
    def shape(self) -> ModelShape:
        """What the model costs per token, as its hooks are at present."""
        return measure(self._hooks)

    @property
    def sizes(self) -> list[int]:
        """Number of parameters of each component."""
        return [parameter.numel() for parameter in self._hooks.parameters]

    def run(self, progress: Progress | None = None, log: Log | None = None) -> PassResult:
        """Does the pass, or what is left of it where `scratch` holds finished blocks.

        Raises:
            TooLittleMemoryError: the memory does not suffice for one pair of samples.
            InputError: the disk does not suffice for the results.
            ArithmeticError: gradients or results differ from those of plain autograd by more than the tolerance. What was
                found right stays in `scratch`.
        """
        started = self.clock()
        self._progress, self._log = progress or _unheard, log or _unheard
        scratch = self.open_scratch()
        results = Results(self.request, len(self._hooks.names), scratch)
        if self.graph.minimum:
            self.plan = self._prepare(scratch)
            with matmul_precision(self.options.precision, self.device):
                while self._has_blocks_left(results, scratch):
                    self._block(self.report.blocks, results, scratch)
                    self.report.blocks += 1
            self.report.pairs = sum(len(self.request.pairs[setting]) for setting in self.request.settings)
            self._report_noise()
        self.report.seconds = self.clock() - started
        self.report.peak_memory_bytes = most_peak_bytes(self._devices)
        return self._result(results)

    def _result(self, results: Results) -> PassResult:
        return PassResult(
            components=self._hooks.names,
            parameters=self.sizes,
            dot_products=results.of("dot_product"),
            variant_self=results.of("variant_self"),
            original_self=results.of("original_self"),
            projected_products=results.projected,
            preconditioned=results.preconditioned,
            dimensions={p: total_dimension(self.sizes, p) for p in self.graph.proportions},
            losses=self._distinct.losses(self._gradients.losses),
            report=self.report,
        )

    def open_scratch(self) -> Scratch | None:
        """The folder of this pass, if it is to have one."""
        if self.options.scratch is None:
            return None
        digests = {name: one.digest for name, one in self.preconditioners.items()}
        name = fingerprint(self._hooks.model, self.request, self.options, digests)
        return Scratch(self.options.scratch, name)

    def _prepare(self, scratch: Scratch | None) -> Plan:
        """The plan of a pass through a model whose hooks are known to be right."""
        if scratch and (ways := scratch.ways()):
            self._hooks.take_up(ways)
        self._verify()
        plan = scratch.plan(self._make_plan) if scratch else self._make_plan()
        if scratch and not self._stands_checkpointing(plan):  # it was found in an earlier process
            plan = self._make_plan()
            scratch.replan(plan)
        self.report.plan = plan.describe()
        self._log(self.report.plan)
        left = [block for number, block in enumerate(plan.blocks) if not (scratch and scratch.finished(number))]
        self._expected = self._gradients_of(left, plan)
        self._predict(replace(plan, blocks=left))
        return plan

    def _predict(self, plan: Plan) -> None:
        """Tells how long the blocks of a plan are to take; nothing else goes by that."""
        if calibration := self._calibrate(plan.expected_seconds):
            found = predicted_seconds(plan, self.shape, self.graph, calibration, self.device.type)
            self.report.predicted_seconds, self.report.predicted_by = found, calibration.source
        else:  # of a plan that another try has begun, what is left
            left = self._expected / max(1, plan.passes)
            self.report.predicted_seconds = plan.expected_seconds * left
            self.report.predicted_by = by_figures(self.device.type)
        self._log(f"about {self.report.predicted_seconds:.3g} s to compute, {self.report.predicted_by}")

    def _verify(self) -> None:
        self.report.tolerance = self._checks.tolerance
        batch_tokens = self.options.batch_tokens
        most = max(self.profile.batch_tokens) if batch_tokens is None else batch_tokens
        started = self.clock()
        self._verification.verify(self._index.samples, most)
        self.report.verification_seconds = self.clock() - started
        self.report.verified = self._verification.describe()
        self.report.quantised = how_quantised(self._hooks.model)
        self.report.dequantised_error = self._verification.dequantised_error
        self._log(self.report.verified)

    def _gradients_of(self, blocks: Sequence[list[VariantKey]], plan: Plan) -> int:
        """Gradients that are computed for blocks, one after the other."""
        count, on_host = 0, self._gradients.on_host & plan.kept
        for block in blocks:
            met = set(self._index.originals_met_by(block))
            count += len(block) + len(met - on_host)
            on_host |= met & plan.kept
        return count

    def _make_plan(self, graph: PassGraph | None = None) -> Plan:
        while True:
            plan = plan_pass(self.shape, graph or self.graph, self.memory_bytes, self.planned_with)
            if self._stands_checkpointing(plan):
                return plan

    def _stands_checkpointing(self, plan: Plan) -> bool:
        """Whether activations may be computed again where a plan wants that."""
        return plan.checkpoint_beyond is None or self._verification.stands_checkpointing(self._index.samples)

    def _block(self, number: int, results: Results, scratch: Scratch | None) -> None:
        """Computes one block until its checks find nothing wrong, unless it is there."""
        if scratch and scratch.finished(number):
            self.report.blocks_restored += 1
            losses, checks = scratch.restored(number)
            self._gradients.restore(self._plan.blocks[number], losses, results)
            self.report.checks.add(checks)
            return
        while True:
            self._compute(number, results, scratch)
            block = self._plan.blocks[number]
            padding = self._gradients.padding if self.report.blocks == self.report.blocks_restored else None
            rows = self._checks.rows_of(block, padding, self._first_fetched())
            wrong, checks = self._checks.check(rows, results)
            if not wrong:
                break
            self._mend(wrong)
            self._gradients.distrust()
            self._doubtful |= set(range(number))
            if scratch:
                scratch.remember_ways(self._hooks.ways)
                scratch.doubt(self._doubtful)
            self.plan = self._replanned(number)
            if scratch:
                scratch.replan(self._plan)
        self.report.checks.add(checks)
        self.report.gradients_fetched += len(self._gradients.fetched)
        if scratch:
            results.flush()
            scratch.finish(number, self._gradients.losses_of(block), checks)

    def _first_fetched(self) -> Set[str]:
        """Originals that came from the host's memory in the first block that any came from there for."""
        return set() if self.report.gradients_fetched else self._gradients.fetched

    def _compute(self, number: int, results: Results, scratch: Scratch | None) -> None:
        """Computes one block, with less at a time if memory runs out."""

        started = self.clock()

        def compute() -> None:
            for rows in self._gradients.compute(self._plan.blocks[number], self._plan):
                results.put(rows)

        done = False
        while not done:
            try:
                done = fits_in_memory(compute, self.device)
            except HooksChangedError:
                self.plan = self._replanned(number)
            else:
                if not done:
                    self.plan = self._with_less(number)
            if scratch and not done:
                scratch.replan(self._plan)
        self.report.computing_seconds += self.clock() - started

    def _with_less(self, number: int) -> Plan:
        less = self._plan.with_less(number, self._note, bool(self._hooks.plain.checkpointing.blocks))
        return less if self._stands_checkpointing(less) else self._plan.with_less(number, self._note, False)

    @property
    def _plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    def _replanned(self, number: int) -> Plan:
        """The plan with the blocks from `number` on planned anew, for hooks that have changed."""
        left = self.graph.only({key for block in self._plan.blocks[number:] for key in block})
        plan = self._make_plan(left)
        self._expected = self.report.gradients_computed + self._gradients_of(plan.blocks, plan)
        return replace(plan, blocks=[*self._plan.blocks[:number], *plan.blocks])

    def _mend(self, wrong: list[WrongPair]) -> None:
        """Has gradients taken in a more general way.

        Raises:
            ArithmeticError: they are right, so that what is made of them is not.
        """
        samples = [sample for one in wrong for sample in one.pair]
        right = [self._verification.compare(sample) for sample in samples]
        if all(right):
            if not (self._hooks.batchable and self._plan.batch_tokens):
                raise ArithmeticError(f"{wrong[0].what}; the results of this block are not kept.")
            self._verification.forbid_batches()
        self._note(f"{wrong[0].what}; the block is done again")

    def _has_blocks_left(self, results: Results, scratch: Scratch | None) -> bool:
        """Whether any block is to be computed: one of the plan (which grows as memory runs out), or one again.

        Blocks that were finished before gradients were found wrong are done again, behind the others: what went wrong for
        one sample may have gone wrong for others that no check has seen.
        """
        if self.report.blocks < len(self._plan.blocks):
            return True
        if scratch:
            results.flush()
            for number in self._done_again:
                scratch.finish(number, self._gradients.losses_of(self._plan.blocks[number]), CheckReport())
        again = {key for number in self._doubtful for key in self._plan.blocks[number]}
        self._done_again, self._doubtful = self._doubtful, set()
        if again:
            added = self._make_plan(self.graph.only(again)).blocks
            self.plan = replace(self._plan, blocks=[*self._plan.blocks, *added])
            self._expected += self._gradients_of(added, self._plan)
            if scratch:
                scratch.replan(self._plan)
        return bool(again)

    def _report_noise(self) -> None:
        noisy = sorted({*self.report.checks.noisy, *(self._hooks.names[n] for n in self._verification.noisy)})
        if noisy:
            named = ", ".join(noisy[:3]) + (", .." if len(noisy) > 3 else "")
            self._note(
                f"plain autograd itself rounds {len(noisy)} components ({named}) by more than "
                f"{self.report.tolerance:.0e} of their length; what is made of them is as exact as that, and no more"
            )

    def _count(self, samples: int, what: str) -> None:
        self.report.gradients_computed += samples
        # What is computed again for want of memory is no progress.
        self._progress(min(self.report.gradients_computed, self._expected), self._expected, what)

    def _note(self, note: str) -> None:
        self.report.notes.append(note)
        self._log(note)
