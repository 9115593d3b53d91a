"""How a gradient pass is run: projections, memory, checks, and where its blocks are kept until it is done."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from gradsim_assets.core.home import Home
from gradsim_assets.core.models.loading import LoadedModel

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassReport, PassRequest, PassResult


class Compute(dg.ConfigurableResource):
    """`[compute]` of gradsim.toml, as the gradient engine takes it."""

    home: str
    projections: list[float]
    precision: str = "fp32"
    memory_gib: float = 0
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
    ) -> "Iterator[PassResult]":
        """One pass over the distinct samples of the request.

        Its results lie in files under `scratch`, finished block by block. They are removed when the caller has made its
        tables of them. Where anything fails they stay for another try by code of the same version: every finished block
        has stood its check.
        """
        from gradsim_assets.core.gradients.engine import PassOptions, run_pass

        options = PassOptions(
            device=loaded.device,
            precision=self.precision,  # type: ignore[arg-type]  # resources take plain strings; settings checked them
            memory_bytes=int(self.memory_gib * 2**30) or None,
            projection_kind=self.projection,  # type: ignore[arg-type]
            weighting=self.projection_weighting,  # type: ignore[arg-type]
            code_version=code_version,
            scratch=scratch,
        )
        try:
            result = run_pass(loaded.model, request, options, progress, log)
        except ArithmeticError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        yield result
        shutil.rmtree(scratch, ignore_errors=True)

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
            "peak_memory_bytes": report.peak_memory_bytes,
            "verified": report.verified,
            **_checked(report),
            "plan": dg.MetadataValue.md(f"```\n{report.plan}\n```"),
            **({"notes": dg.MetadataValue.text("\n".join(report.notes))} if report.notes else {}),
        }


def _checked(report: "PassReport") -> dict[str, Any]:
    """What was recomputed by plain autograd, and what that showed; what was not is said to be "not checked"."""
    checks = report.checks
    shown: dict[str, Any] = {
        "checked_pairs": checks.pairs,
        "max_relative_error": checks.error if checks.pairs else "not checked",
        "max_projection_error": checks.projected_error if checks.projected_pairs else "not checked",
    }
    if checks.cosine_cost:
        shown |= {
            "rounding_of_cosines": checks.cosine_cost,
            "rounding_of_component_cosines": checks.component_cost,
            "largest_rounding_of_component_cosines": checks.largest_component_cost,
        }
    return {name: dg.MetadataValue.float(value) if isinstance(value, float) else value for name, value in shown.items()}
