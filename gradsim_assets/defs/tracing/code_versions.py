"""The versions of the code that traces texts: reading and following it takes most of a second."""

from dataclasses import dataclass
from typing import Self

from gradsim_assets.defs.code_version import code_version

_LOADING = "core.models.loading:load_model"


@dataclass(frozen=True)
class CodeVersions:
    """What decides a trace, what decides gradients that are kept, and what a pass that was killed may go on with."""

    trace: str
    gradients: str
    run: str

    @classmethod
    def now(cls) -> Self:
        """Those of the source as it stands."""
        return cls(
            trace=code_version(_LOADING, "core.tracing.trace:originals_of"),
            gradients=code_version(_LOADING, "core.tracing.held_originals:HeldOriginals"),
            run=code_version(_LOADING, "core.gradients.engine:run_pass"),
        )
