"""`gradsim slurm`: the heavy part of a model's run as an array job on a SLURM cluster."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.instance import FAILED, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.cli.run import controls_of, run_part, stages_of
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home, gradsim_home

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher
    from gradsim_assets.runs.slurm.array_job import ArrayJob, Outcome, Task


#: How often a command submits what is missing or stale; what changes faster never ends.
_ROUNDS = 5


@click.command()
@click.argument("model", type=MODEL_ID)
@click.option("--dry-run", is_flag=True, help="Print the scripts and submit nothing.")
@click.option(
    "--detach", is_flag=True, help="Return when the jobs are submitted; the same command collects them later."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds between two looks at the queue.",
)
def slurm(model: str, dry_run: bool, detach: bool, interval: float) -> None:
    """Compute the answers and gradients of MODEL on a SLURM cluster: an array job with a task for every shard that is missing.

    Datasets are made here first and analyses at the end, as `gradsim run` makes them; so are registered controls. What the jobs
    ask the cluster for is [slurm] in gradsim.toml. A command that was ended is given again: it goes on with the jobs that it
    has submitted.

    \b
    Examples:
      gradsim slurm amd/AMD-OLMo-1B-SFT --dry-run     the scripts
      gradsim slurm amd/AMD-OLMo-1B-SFT               submits, waits, collects, reports
      gradsim slurm amd/AMD-OLMo-1B-SFT --detach      submits; later the same again
    """
    settings, home = load_settings(), gradsim_home()
    _check_storage(home)
    if dry_run:
        _show(model, settings, home)
        return
    click.echo("datasets, here:")
    run_part(model, "datasets", force=False, settings=settings, requested=())
    runs = launcher(launches=True)
    for _ in range(_ROUNDS):
        array, is_new = _array(runs, model, settings, home)
        if array is None:
            break
        if not _collected(runs, array, is_new, detach, interval):
            return
    else:
        click.echo(f"✗ {model} is out of date again after {_ROUNDS} jobs: something changes all the time", err=True)
        sys.exit(FAILED)
    click.echo("analyses, here:")
    run_part(model, "analyses", force=False, settings=settings, requested=())


def _check_storage(home: Home) -> None:
    import os

    named = os.environ.get("DAGSTER_HOME", "")
    if named not in ("", str(home.dagster)):
        raise InputError(
            f"gradsim slurm works on the home's own Dagster storage, but DAGSTER_HOME is {named}; unset it."
        )


def _array(runs: "Launcher", model: str, settings: Settings, home: Home) -> tuple["ArrayJob | None", bool]:
    """The array job of a model that is not collected yet, or a new one of what is missing; and whether it is new."""
    from gradsim_assets.core.locks import locked
    from gradsim_assets.runs.slurm.array_job import open_arrays

    with locked(home.locks / "slurm.lock"):  # two commands submit nothing twice
        for array in open_arrays(home):
            if any(task.model == model for task in array.tasks):
                return array, False
        array = _planned(runs, model, settings, home)
        if not array.tasks:
            return None, False
        array.submit(settings.slurm, home)
    for stage, job in array.jobs.items():
        count = sum(task.stage == stage for task in array.tasks)
        click.echo(f"job {job}: {stage}, {count} task{'s' if count > 1 else ''}; logs in {array.folder}")
    return array, True


def _planned(runs: "Launcher", model: str, settings: Settings, home: Home) -> "ArrayJob":
    """An array job of everything heavy that is missing or stale of a model and its registered controls."""
    from gradsim_assets.runs.made_elsewhere import last_event
    from gradsim_assets.runs.slurm.array_job import ArrayJob, new_folder

    models = [*controls_of(runs, model, "gradients", settings), model]
    shared = last_event(runs.instance)
    return ArrayJob(new_folder(home, model), list(_tasks(runs, models, settings)), shared)


def _tasks(runs: "Launcher", models: list[str], settings: Settings) -> Iterator["Task"]:
    from gradsim_assets.defs.stages import CURVATURE, GRADIENTS, INDEX
    from gradsim_assets.runs.slurm.array_job import Task

    curved = {one: list(runs.work(CURVATURE, one)) for one in models}
    for one in models:
        yield from (Task(CURVATURE.job, one, str(partition)) for partition in curved[one])
    for one in models:
        # Where another index finds other candidates, the next job has the shards that are stale then.
        indexed = runs.work(INDEX, one) if INDEX in stages_of(one, "gradients", settings) else ()
        yield from (Task(INDEX.job, one, str(partition)) for partition in indexed)
    for one in models:
        # Another curvature leaves all shards stale, which shows only then.
        work = runs.work(GRADIENTS, one, force=bool(curved[one]))
        yield from (Task(GRADIENTS.job, one, str(partition)) for partition in work)


def _show(model: str, settings: Settings, home: Home) -> None:
    from gradsim_assets.runs.slurm.array_job import shown

    runs = launcher(writes=True)
    if model not in runs.models():
        raise InputError(f"{model} is not registered; `gradsim models add {model}` does it.")
    array = _planned(runs, model, settings, home)
    click.echo(shown(array, settings.slurm) if array.tasks else "Nothing is missing; no job would be submitted.")


def _collected(runs: "Launcher", array: "ArrayJob", is_new: bool, detach: bool, interval: float) -> bool:
    """Whether an array job has ended and is recorded; ends the command where tasks of a new one have failed."""
    from gradsim_assets.runs.slurm.collecting import collect

    def tell(task: "Task", outcome: "Outcome") -> None:
        if outcome.error:
            log = array.log(array.tasks.index(task))
            click.echo(f"✗ {task}: {outcome.error.rstrip('.')}; its log is {log}", err=True)
        else:
            click.echo(
                f"✓ {task} ({outcome.assets} asset{'s' if outcome.assets != 1 else ''}, {outcome.seconds:.1f} s)"
            )

    failed = collect(array, runs.instance, tell, wait=not detach, interval=interval)
    if failed is None:
        click.echo("At work; the same command collects what is done, and goes on.")
        return False
    if failed and is_new:
        click.echo("What other tasks made is recorded; the same command submits what is missing.", err=True)
        sys.exit(FAILED)
    return True
