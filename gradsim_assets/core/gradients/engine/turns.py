"""A pass over all components, or several over some of them in turn where memory does not suffice for all."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.gradient_pass import Calibrate, GradientPass, Log, Progress
from gradsim_assets.core.gradients.engine.planning.plan import TooLittleMemoryError
from gradsim_assets.core.gradients.engine.planning.turns import plan_several_turns, why_turns
from gradsim_assets.core.gradients.engine.request import (
    CheckReport,
    Losses,
    PassOptions,
    PassReport,
    PassRequest,
    PassResult,
)
from gradsim_assets.core.gradients.engine.results import TERMS, Results
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners
from gradsim_assets.core.sample_gradients.projections import total_dimension


def run_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    preconditioners: Preconditioners | None = None,
    calibrate: Calibrate | None = None,
) -> PassResult:
    """Everything that a request asks for; raises as `GradientPass` and its `run`.

    `calibrate` brings what was measured of the device, by which it is said beforehand how long the pass will take.

    Where the gradients of one pair of samples do not fit beside the model, components are done in turn: as many passes,
    each of which reads all samples.

    Raises:
        TooLittleMemoryError: not even the largest component of one pair fits.
    """
    whole = GradientPass(model, request, options, preconditioners, calibrate)
    try:
        return whole.run(progress, log)
    except TooLittleMemoryError:
        pass  # so that what the error holds on to is freed
    return _InTurn(whole, model, preconditioners, calibrate).run(progress, log or (lambda line: None))


class _InTurn:
    """The passes of a request over parts of the components, and what they come to together."""

    def __init__(
        self,
        whole: GradientPass,
        model: torch.nn.Module,
        preconditioners: Preconditioners | None,
        calibrate: Calibrate | None,
    ) -> None:
        self._whole, self._model, self._preconditioners = whole, model, preconditioners
        self._calibrate = calibrate
        self._request, self._options = whole.request, whole.options

    def run(self, progress: Progress | None, log: Log) -> PassResult:
        started = time.perf_counter()
        parts = self._parts()
        note = why_turns(len(parts))
        log(note)
        results = Results(self._request, len(self._whole.names), self._whole.open_scratch())
        for products in results.projected.values():
            for terms in products.values():
                terms[:] = 0  # sums over the turns
        reports: list[PassReport] = []
        losses: Losses = {}
        for number, part in enumerate(parts):
            names = [self._whole.names[one] for one in part]
            log(f"turn {number + 1} of {len(parts)}: {names[0]} to {names[-1]}")
            with _trainable_alone(self._model, set(names)):
                heard = _shared(progress, number, len(parts))
                # One that does not fit after all is cut up in turn.
                result = run_pass(
                    self._model, self._request, self._options, heard, log, self._preconditioners, self._calibrate
                )
            _take_in(results, result, part)
            reports.append(result.report)
            losses = losses or result.losses
        report = _together(reports, note)
        report.seconds = time.perf_counter() - started
        sizes = self._whole.sizes
        return PassResult(
            components=self._whole.names,
            parameters=sizes,
            dot_products=results.of("dot_product"),
            variant_self=results.of("variant_self"),
            original_self=results.of("original_self"),
            projected_products=results.projected,
            preconditioned=results.preconditioned,
            dimensions={p: total_dimension(sizes, p) for p in self._whole.graph.proportions},
            losses=losses,
            report=report,
        )

    def _parts(self) -> list[range]:
        """The numbers of the components of each turn."""
        whole = self._whole
        turns = plan_several_turns(whole.shape, whole.graph, whole.memory_bytes, whole.planned_with)
        return [turn.components for turn in turns]


@contextmanager
def _trainable_alone(model: torch.nn.Module, names: set[str]) -> Iterator[None]:
    """Leaves gradients to these components alone."""
    others = [parameter for name, parameter in trainable_components(model) if name not in names]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _shared(progress: Progress | None, turn: int, turns: int) -> Progress | None:
    """Hears one turn's progress as a part of that of all, which take about as many gradients each."""
    if progress is None:
        return None

    def heard(done: int, expected: int, what: str) -> None:
        progress(turn * expected + done, turns * expected, what)

    return heard


def _take_in(results: Results, result: PassResult, part: range) -> None:
    """Puts the numbers of some components among those of all."""
    columns = slice(part.start, part.stop)
    own = dict(zip(TERMS, (result.dot_products, result.variant_self, result.original_self), strict=True))
    for setting, terms in results.products.items():
        for term, values in terms.items():
            _copy(values[:, columns], own[term][setting])
    for setting, named in results.preconditioned.items():
        for name, terms in named.items():
            for term, values in terms.items():
                _copy(values[:, columns], result.preconditioned[setting][name][term])
    for setting, projected in results.projected.items():
        for proportion, products in projected.items():
            products += result.projected_products[setting][proportion]


def _copy(into: np.ndarray, values: np.ndarray, rows: int = 100_000) -> None:
    """Copies rows that may be files larger than memory."""
    for start in range(0, len(values), rows):
        into[start : start + rows] = values[start : start + rows]


def _together(reports: Sequence[PassReport], note: str) -> PassReport:
    """What the passes over some components did together."""
    checks = CheckReport()
    for report in reports:
        checks.add(report.checks)
    return PassReport(
        samples=reports[0].samples,
        pairs=reports[0].pairs,
        gradients_computed=sum(report.gradients_computed for report in reports),
        blocks=sum(report.blocks for report in reports),
        blocks_restored=sum(report.blocks_restored for report in reports),
        computing_seconds=sum(report.computing_seconds for report in reports),
        predicted_seconds=sum(report.predicted_seconds for report in reports),
        predicted_by=reports[0].predicted_by,
        peak_memory_bytes=max(report.peak_memory_bytes for report in reports),
        devices=reports[0].devices,
        checks=checks,
        tolerance=max(report.tolerance for report in reports),
        verification_seconds=sum(report.verification_seconds for report in reports),
        verified=_numbered(report.verified for report in reports),
        quantised=reports[0].quantised,
        dequantised_error=max(
            (one.dequantised_error for one in reports if one.dequantised_error is not None), default=None
        ),
        plan=_numbered(report.plan for report in reports),
        notes=[note, *dict.fromkeys(one for report in reports for one in report.notes)],
    )


def _numbered(sentences: Iterable[str]) -> str:
    return " ".join(f"Turn {number}: {sentence}" for number, sentence in enumerate(sentences, 1))
