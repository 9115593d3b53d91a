"""An array job on a SLURM cluster: one task for every partition that is missing, and a folder in which all of it lies."""

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gradsim_assets.configuration import SlurmSettings, config_file
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.runs.environment import copy_storage

_FILE = "array.json"

#: The module that a task of an array job runs.
_MODULE = "gradsim_assets.runs.slurm.task"

#: Variables that say where things lie, with which tasks find what the command that submits them has found.
_PLACES = ("GRADSIM_HOME", "GRADSIM_TABLES", "GRADSIM_CONFIG")


@dataclass(frozen=True)
class Task:
    """One partition of a stage of a model."""

    stage: str
    model: str
    partition: str

    def __str__(self) -> str:
        return f"{self.stage} {self.partition}"


@dataclass(frozen=True)
class Outcome:
    """What came of a task: how many assets were made in how long, and what went wrong (None: nothing)."""

    assets: int
    seconds: float
    error: str | None


@dataclass
class ArrayJob:
    """The tasks of a model and its controls, stage after stage, and the jobs that they were submitted as.

    The folder holds a copy of Dagster's storage that every task works on a copy of its own of, so that no two machines write
    into one database; scripts and logs; and what each task has made, by its number.
    """

    folder: Path
    tasks: list[Task]
    #: The number of the latest event in the copied storage.
    shared: int
    #: The id of the job of every stage that was submitted.
    jobs: dict[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        """The copied storage."""
        return self.folder / "storage"

    def log(self, number: int) -> Path:
        """What a task printed."""
        return self.folder / f"{number}.log"

    def run(self, number: int) -> Path:
        """The run of a task, as `made_elsewhere` writes it."""
        return self.folder / f"{number}.json.gz"

    def outcome(self, number: int) -> Outcome | None:
        """What came of a task; None as long as nothing did."""
        try:
            return Outcome(**json.loads((self.folder / f"{number}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def finish(self, number: int, outcome: Outcome) -> None:
        """Says what came of a task; the last thing that it does."""
        write_whole(self.folder / f"{number}.json", json.dumps(asdict(outcome)))

    def write(self) -> None:
        """Writes down what `read` reads."""
        described = {"tasks": [asdict(task) for task in self.tasks], "shared": self.shared, "jobs": self.jobs}
        write_whole(self.folder / _FILE, json.dumps(described))

    @classmethod
    def read(cls, folder: Path) -> "ArrayJob":
        """The array job of a folder."""
        described = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return cls(folder, [Task(**task) for task in described["tasks"]], described["shared"], described["jobs"])

    def close(self, keep_logs: bool) -> None:
        """Removes the folder once everything is collected, or what nobody reads any more of it."""
        (self.folder / _FILE).unlink()
        if not keep_logs:
            shutil.rmtree(self.folder)
            return
        shutil.rmtree(self.storage, ignore_errors=True)
        for number in range(len(self.tasks)):
            for file in (self.run(number), self.folder / f"{number}.json"):
                file.unlink(missing_ok=True)

    @property
    def stages(self) -> list[str]:
        """The stages that have tasks, in order; each waits for the one before it."""
        return list(dict.fromkeys(task.stage for task in self.tasks))

    def script(self, stage: str, settings: SlurmSettings) -> str:
        """The script of a stage's job."""
        numbers = [number for number, task in enumerate(self.tasks) if task.stage == stage]
        at_once = f"%{settings.at_once}" if settings.at_once else ""
        own = {
            "job-name": f"gradsim-{stage}",
            "array": f"{numbers[0]}-{numbers[-1]}{at_once}",
            "output": f"{self.folder}/%a.log",
            "chdir": os.getcwd(),
        }
        asked = [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in {**own, **settings.options}.items()
        ]
        command = [sys.executable, "-m", _MODULE, str(self.folder)]
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in asked),
            "set -eo pipefail",
            *settings.setup,
            *(f"export {name}={shlex.quote(value)}" for name, value in _places()),
            f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
        ]
        return "\n".join(lines) + "\n"

    def submit(self, settings: SlurmSettings, home: Home) -> None:
        """Submits a job for every stage, each to begin when the one before it has ended.

        Raises:
            InputError: there is no sbatch here, it refuses the script, or Dagster's storage is not the home's own.
        """
        self.folder.mkdir(parents=True)
        self.storage.mkdir()
        copy_storage(home, self.storage)
        try:
            for stage in self.stages:
                self._submit(stage, settings)
        finally:
            if not self.jobs:
                shutil.rmtree(self.folder)

    def _submit(self, stage: str, settings: SlurmSettings) -> None:
        script = self.folder / f"{stage}.sh"
        script.write_text(self.script(stage, settings), encoding="utf-8")
        after = [f"--dependency=afterany:{job}" for job in list(self.jobs.values())[-1:]]
        self.jobs[stage] = _ask("sbatch", "--parsable", *after, str(script)).strip().partition(";")[0]
        self.write()  # at once: a killed command finds what it has submitted

    def is_queued(self) -> bool:
        """Whether a task of it waits or runs.

        Raises:
            ServiceError: the cluster does not answer.
        """
        listed = _ask("squeue", "--noheader", "--format=%F", f"--user={getpass.getuser()}")
        return not set(listed.split()).isdisjoint(self.jobs.values())


def new_folder(home: Home, model_id: str) -> Path:
    """A name for the folder of a model's next array job."""
    return home.arrays / f"{model_slug(model_id)}-{time.strftime('%Y%m%d-%H%M%S')}"


def open_arrays(home: Home) -> Iterator[ArrayJob]:
    """The array jobs that are not collected yet, oldest first."""
    for file in sorted(home.arrays.glob(f"*/{_FILE}")):
        yield ArrayJob.read(file.parent)


def _places() -> Iterator[tuple[str, str]]:
    """What says where things lie, as the command that submits has it."""
    found = {name: os.environ[name] for name in _PLACES if os.environ.get(name)}
    if (file := config_file(os.environ)) is not None:
        found["GRADSIM_CONFIG"] = str(file.absolute())
    yield from found.items()


def _ask(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        InputError: it is not there, or refuses what it was asked for.
        ServiceError: it does not reach the cluster's controller.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {command[0]} on this machine; give the command on a machine of the cluster, or see by --dry-run "
            "what it would submit."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{command[0]} did not answer within {error.timeout:.0f} s.") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        if re.search(r"contact slurm controller|socket timed out|connection refused", said, re.IGNORECASE):
            raise ServiceError(f"the cluster's controller is not reached ({said}).")
        raise InputError(f"{command[0]} refuses the job ({said}); correct [slurm] in gradsim.toml.")
    return done.stdout


def shown(array: ArrayJob, settings: SlurmSettings) -> str:
    """The scripts of an array job with their places, and what each task is."""
    parts: list[str] = []
    for stage in array.stages:
        parts.append(f"# {array.folder / stage}.sh")
        parts += [f"#   task {n}: {task.partition}" for n, task in enumerate(array.tasks) if task.stage == stage]
        parts.append(array.script(stage, settings))
    return "\n".join(parts)
