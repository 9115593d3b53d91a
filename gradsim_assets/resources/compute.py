"""How a gradient pass is run: projections, memory, checks, and where its blocks are kept until it is done."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from gradsim_assets.resources.hub import LoadedModel

if TYPE_CHECKING:
    from gradsim_assets.core.engine import PassRequest, PassResult


class Compute(dg.ConfigurableResource):
    """`[compute]` of gradsim.toml, as the gradient engine takes it."""

    home: str
    projections: list[float]

    @property
    def reports(self) -> Path:
        """Where reports are written, a folder per model."""
        return Path(self.home) / "reports"

    def scratch(self, *parts: str) -> Path:
        """Where unfinished work of a step is kept, so that what is killed goes on where it stopped."""
        return Path(self.home).joinpath("scratch", *parts)

    def run_pass(
        self,
        loaded: LoadedModel,
        request: "PassRequest",
        scratch: Path,
        progress: Callable[[int, int, str], None],
    ) -> "PassResult":
        """One pass over the distinct samples of the request.

        Finished blocks are kept under `scratch` until the whole pass is done.
        """
        from gradsim_assets.core.engine import PassOptions, run_pass

        options = PassOptions(device=loaded.device, scratch=scratch)
        result = run_pass(loaded.model, request, options, progress)
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    @staticmethod
    def metadata(result: "PassResult") -> dict[str, Any]:
        """What the UI shows of a pass."""
        report = result.report
        return {
            "gradients_computed": report.gradients_computed,
            "distinct_samples": report.samples,
            "pass_seconds": report.seconds,
            "peak_memory_bytes": report.peak_memory_bytes,
            "max_relative_error": dg.MetadataValue.float(float(report.max_relative_error)),
            "checked_pairs": report.checked_pairs,
            "plan": dg.MetadataValue.md(f"```\n{report.plan}\n```"),
            **({"notes": dg.MetadataValue.text("\n".join(report.notes))} if report.notes else {}),
        }
