"""How a gradient pass is run: projections, memory, checks, and where its blocks are kept until it is done."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.models.loading import LoadedModel

if TYPE_CHECKING:
    from gradsim_assets.core.curvature.curvature import CurvatureReport, Fisher
    from gradsim_assets.core.gradients.engine import PassOptions, PassReport, PassRequest, PassResult
    from gradsim_assets.core.index.sketching import SketchReport
    from gradsim_assets.core.models.encoded_sample import EncodedSample
    from gradsim_assets.core.sample_gradients.calibration import Calibration
    from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners
    from gradsim_assets.core.tracing.attributed_pairs import AttributedPair
    from gradsim_assets.core.tracing.held_originals import HeldOriginals
    from gradsim_assets.core.tracing.kept_gradients import KeptGradients
    from gradsim_assets.core.tracing.token_attribution import Attributed


#: Of passes that are to take as long, the first on a device measures it, which takes a few seconds.
MEASURED_BEFORE_SECONDS = 120


class Compute(dg.ConfigurableResource):
    """`[compute]` of gradsim.toml, as the gradient engine takes it."""

    home: str
    projections: list[float]
    precision: str = "fp32"
    memory_gib: float = 0
    host_memory_gib: float = 0
    projection: str = "fast"
    projection_weighting: str = "unbiased"

    @property
    def places(self) -> Home:
        """Where reports are written and unfinished work is kept."""
        return Home(Path(self.home))

    @contextmanager
    def run_pass(
        self,
        loaded: LoadedModel,
        request: "PassRequest",
        scratch: Path,
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None],
        code_version: str,
        preconditioners: "Preconditioners | None" = None,
    ) -> "Iterator[PassResult]":
        """One pass over the distinct samples of the request.

        Its results lie in files under `scratch`, finished block by block. They are removed when the caller has made its
        tables of them. Where anything fails they stay for another try by code of the same version: every finished block
        has stood its check.
        """
        from gradsim_assets.core.gradients.engine import run_pass

        options = self._options(loaded.device, code_version, scratch)
        try:
            result = run_pass(
                loaded.model,
                request,
                options,
                progress,
                log,
                preconditioners,
                lambda seconds: self._calibration(loaded, seconds, log),
            )
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        yield result
        shutil.rmtree(scratch, ignore_errors=True)

    def _calibration(self, loaded: LoadedModel, seconds: float, log: Callable[[str], None]) -> "Calibration | None":
        """What was measured of the device; measured now where that is little beside the seconds that a pass is to take."""
        import torch

        from gradsim_assets.core.memory import ran_out
        from gradsim_assets.core.sample_gradients.calibration import Place, keep, kept
        from gradsim_assets.core.sample_gradients.device_measurements import measure

        dtype = next(one.dtype for one in loaded.model.parameters() if one.is_floating_point())
        place = Place.of(loaded.device, dtype, self.precision)  # type: ignore[arg-type]
        found = kept(place, self.places.calibrations)
        if found is None and seconds >= MEASURED_BEFORE_SECONDS:
            log(
                f"measuring {place.device} ({place.kind}, torch {torch.__version__}) for predictions of time, once in this home"
            )
            try:
                found = measure(loaded.device, place.kind)
            except Exception as error:
                if not ran_out(error):
                    raise
                log(
                    "there is no room beside the model to measure the device; `gradsim doctor --measure` does it without one"
                )
                return None
            keep(found, self.places.calibrations)
        return found

    def _options(self, device: str, code_version: str, scratch: Path | None = None) -> "PassOptions":
        from gradsim_assets.core.gradients.engine import PassOptions

        return PassOptions(
            device=device,
            precision=self.precision,  # type: ignore[arg-type]  # resources take plain strings; settings checked them
            memory_bytes=int(self.memory_gib * 2**30) or None,
            host_bytes=int(self.host_memory_gib * 2**30),
            projection_kind=self.projection,  # type: ignore[arg-type]
            weighting=self.projection_weighting,  # type: ignore[arg-type]
            code_version=code_version,
            scratch=scratch,
        )

    def curvature(
        self,
        loaded: LoadedModel,
        originals: "Sequence[EncodedSample]",
        kind: str,
        fisher: "Fisher",
        folder: Path,
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None],
        code_version: str,
    ) -> "CurvatureReport":
        """Curvature of all components over the originals, in files under `folder`: what is finished there is kept."""
        from gradsim_assets.core.curvature.curvature import compute_curvature

        options = self._options(loaded.device, code_version)
        try:
            return compute_curvature(loaded.model, originals, kind, fisher, folder, options, progress, log)
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def sketches(
        self,
        loaded: LoadedModel,
        samples: "Sequence[EncodedSample]",
        dimension: int,
        folder: Path | None,
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None],
        code_version: str,
    ) -> "SketchReport":
        """Sketches of the gradients of samples, in files under `folder` until all are there: what is finished there is kept."""
        from gradsim_assets.core.index.sketching import sketch

        options = self._options(loaded.device, code_version)
        try:
            return sketch(loaded.model, samples, dimension, folder, options, progress, log)
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def token_attribution(
        self,
        loaded: LoadedModel,
        request: "PassRequest",
        setting: str,
        pairs: "Sequence[AttributedPair]",
        scratch: Path,
        progress: Callable[[int, int], None],
        log: Callable[[str], None],
        code_version: str,
    ) -> "Attributed":
        """Pairs of a setting split over their tokens; blocks that are finished lie in a folder under `scratch`, by all that
        their numbers depend on."""
        from gradsim_assets.core.gradients.engine.scratch import fingerprint
        from gradsim_assets.core.sample_gradients.several_devices import devices_of
        from gradsim_assets.core.tracing.token_attribution import TokenAttribution

        if (devices := len(devices_of(loaded.model))) > 1:
            raise InputError(
                f"every token of a pair is compared with every other on one device, and the model is spread over {devices}; set "
                "compute.devices = 1 for token_attribution, or leave that table out."
            )
        options = self._options(loaded.device, code_version)
        options = replace(options, scratch=scratch / fingerprint(loaded.model, request, options))
        variants = {sample.id: sample for sample in request.variants[setting]}
        originals = {sample.id: sample for sample in request.originals}
        try:
            made = TokenAttribution(loaded.model, loaded.tokenizer, variants, originals, options, log)
            return made.of(pairs, progress)
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def held_originals(
        self,
        loaded: LoadedModel,
        originals: "Sequence[EncodedSample]",
        kept: "KeptGradients",
        progress: Callable[[int, int, str], None],
        log: Callable[[str], None],
    ) -> "HeldOriginals":
        """The gradients of all originals in memory: those that are kept, or computed and then kept."""
        from gradsim_assets.core.tracing.held_originals import HeldOriginals

        if found := kept.read(loaded.model, originals, loaded.device):
            return found
        try:
            held = HeldOriginals.of(loaded.model, originals, self._options(loaded.device, ""), progress, log)
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        kept.write(held, loaded.model)
        return held

    def libraries(self, projected: bool, device: str) -> str:
        """What beside our own code decides the numbers of a pass: transformers computes the model. traker's matrices, for
        `projected` tables, are of the generator of torch, which is another one on every kind of device.
        """
        decide = [f"transformers {version('transformers')}"]
        if projected and self.projection == "trak":
            decide += [f"traker {version('traker')}", f"torch {version('torch')}", device.partition(":")[0]]
        return ", ".join(decide)

    @staticmethod
    def metadata(result: "PassResult") -> dict[str, Any]:
        """What the UI shows of a pass."""
        report = result.report
        return {
            "gradients_computed": report.gradients_computed,
            "distinct_samples": report.samples,
            "pass_seconds": report.seconds,
            "computing_seconds": report.computing_seconds,
            "predicted_seconds": report.predicted_seconds,
            "predicted_by": report.predicted_by,
            "peak_memory_bytes": report.peak_memory_bytes,
            **({"devices": report.devices} if report.devices > 1 else {}),
            "verified": report.verified,
            **_quantised(report),
            **_checked(report),
            "plan": dg.MetadataValue.md(f"```\n{report.plan}\n```"),
            **({"notes": dg.MetadataValue.text("\n".join(report.notes))} if report.notes else {}),
        }


def _quantised(report: "PassReport") -> dict[str, Any]:
    """Of a quantised base: how it is, and how far gradients were off from float64 over its dequantised weights."""
    if not report.quantised:
        return {}
    error = report.dequantised_error
    return {
        "quantised_base": f"{report.quantised}; weights are dequantised where they are used, activations are not quantised",
        "error_against_dequantised_float64": "not checked" if error is None else dg.MetadataValue.float(error),
    }


def _checked(report: "PassReport") -> dict[str, Any]:
    """What was recomputed by plain autograd, and what that showed; what was not is said to be "not checked"."""
    checks = report.checks
    shown: dict[str, Any] = {
        "checked_pairs": checks.pairs,
        "max_relative_error": checks.error if checks.pairs else "not checked",
        "max_projection_error": checks.projected_error if checks.projected_pairs else "not checked",
    }
    if checks.preconditioned_pairs:
        shown["max_preconditioned_error"] = checks.preconditioned_error
    if checks.cosine_cost:
        shown |= {
            "rounding_of_cosines": checks.cosine_cost,
            "rounding_of_component_cosines": checks.component_cost,
            "largest_rounding_of_component_cosines": checks.largest_component_cost,
        }
    return {name: dg.MetadataValue.float(value) if isinstance(value, float) else value for name, value in shown.items()}
