"""Whether a model may be traced with and its originals are those of now, found out by another process meanwhile.

To ask Dagster takes seconds, most of them its import, and to import torch takes as long. `python -m gradsim_assets.runs.trace_check
MODEL` does the first beside whoever does the second.
"""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from gradsim_assets.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    from gradsim_assets.defs.tracing.code_versions import CodeVersions

#: What went wrong, by name, and as what it is raised.
_ERRORS = {error.__name__: error for error in (InputError, ServiceError)}


class TraceCheck:
    """A check that another process makes."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._current: bool | None = None
        self._code: dict[str, str] = {}

    def originals_are_current(self) -> bool:
        """Whether the stored originals are those of now, once the model is known to be registered.

        Raises:
            InputError: the model is not registered, or a source cannot be read.
            ServiceError: the hub does not tell the revision of a model.
            RuntimeError: the process ended without an answer; its own output says why.
        """
        if self._current is None:
            out, _ = self._process.communicate()
            try:
                told = json.loads(out.splitlines()[-1])
            except (ValueError, IndexError):
                raise RuntimeError(f"the check of model and originals ended with {self._process.returncode}") from None
            if error := told.get("error"):
                raise _ERRORS[error](told["said"])
            self._current = told["current"]
            self._code = told["code"]
        return self._current

    def code(self) -> "CodeVersions":
        """The versions of the code that traces; raises as `originals_are_current`."""
        from gradsim_assets.defs.tracing.code_versions import CodeVersions

        self.originals_are_current()
        return CodeVersions(**self._code)


@contextmanager
def trace_check(model_id: str) -> Iterator[TraceCheck]:
    """The check of a model in the home that the environment names; its process ends with the block."""
    command = [sys.executable, "-m", __name__, model_id]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield TraceCheck(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def check(model_id: str) -> bool:
    """Whether the originals are current, after a look at how their source stands; raises as `originals_are_current`.

    What decides that are two assets, and the definitions of all others would take longer than the rest of this.
    """
    import dagster as dg

    from gradsim_assets.configuration import load_settings
    from gradsim_assets.defs.datasets import lima, originals_source
    from gradsim_assets.orchestration.model_registry import check_registered
    from gradsim_assets.orchestration.observations import record, source_sighting
    from gradsim_assets.orchestration.planner import originals_are_current
    from gradsim_assets.resources.by_name import resources
    from gradsim_assets.runs.environment import open_instance

    settings = load_settings()
    found = resources(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # as where all definitions are built
        needed = dg.Definitions([originals_source.build(), lima.build(settings)], resources=found._asdict())
    graph = needed.get_repository_def().asset_graph
    with open_instance(writes=True) as instance:
        check_registered(instance, settings.configured, model_id)
        with suppress(ServiceError):  # offline: it stands where it stood
            seen = source_sighting(found.sources.originals, found.sources.originals_version())
            record(instance, originals_source.ORIGINALS_SOURCE, None, seen)
        return originals_are_current(instance, graph)


def main() -> None:
    """Prints what `check` finds of the model that is named, as JSON."""
    from gradsim_assets.defs.tracing.code_versions import CodeVersions

    try:
        told: dict[str, object] = {"current": check(sys.argv[1]), "code": asdict(CodeVersions.now())}
    except (InputError, ServiceError) as error:
        told = {"error": next(name for name, kind in _ERRORS.items() if isinstance(error, kind)), "said": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
