"""The layout of GRADSIM_HOME: where everything local lies."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradsim_assets.core.partition_keys import is_slug


@dataclass(frozen=True)
class Home:
    """A home folder and what lies in it; nothing is created by asking for its place."""

    folder: Path

    @property
    def tables(self) -> Path:
        """The tables, unless GRADSIM_TABLES puts them elsewhere."""
        return self.folder / "tables"

    @property
    def models(self) -> Path:
        """Models that are built here: the demo's."""
        return self.folder / "models"

    @property
    def paraphrases(self) -> Path:
        """The store of what chat models answered, so that nothing is paid twice."""
        return self.folder / "paraphrases"

    @property
    def dagster(self) -> Path:
        """Dagster's own home, unless DAGSTER_HOME puts it elsewhere."""
        return self.folder / "dagster"

    @property
    def gpus(self) -> Path:
        """Locks on the GPUs of this machine."""
        return self.folder / "gpus"

    @property
    def locks(self) -> Path:
        """What processes that share this home tell each other: who serves, and who works on what."""
        return self.folder / "locks"

    @property
    def calibrations(self) -> Path:
        """What was measured of the devices that this home computes on."""
        return self.folder / "calibrations"

    @property
    def reports(self) -> Path:
        """The reports, a folder for every model."""
        return self.folder / "reports"

    @property
    def reported(self) -> list[str]:
        """Partition keys of the models that have a report, in order."""
        folders = self.reports.iterdir() if self.reports.is_dir() else ()
        return sorted(one.name for one in folders if is_slug(one.name) and (one / "index.html").is_file())

    def report(self, model_slug: str) -> Path:
        """The report of a model, with its headline figures and plots."""
        return self.reports / model_slug

    def retrainings(self, model_slug: str) -> Path:
        """Losses after retrainings of a model, by what was left out: none is made twice."""
        return self.folder / "retrainings" / model_slug

    def traces(self, model_slug: str) -> Path:
        """Texts that were traced to the originals of a model, a folder for each."""
        return self.folder / "traces" / model_slug

    @property
    def arrays(self) -> Path:
        """Array jobs on a SLURM cluster that are not collected yet, a folder for each."""
        return self.folder / "slurm"

    def scratch(self, *parts: str) -> Path:
        """Unfinished work of a step, from which the next try goes on."""
        return self.folder.joinpath("scratch", *parts)


def gradsim_home(environment: Mapping[str, str] = os.environ) -> Home:
    """The home that the environment names: GRADSIM_HOME, or `.gradsim` in the working directory."""
    return Home(Path(environment.get("GRADSIM_HOME") or ".gradsim").expanduser().absolute())
