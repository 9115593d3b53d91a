"""What commands share."""

from typing import TYPE_CHECKING

import click

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.models.revisions import is_folder

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher

#: Exit codes: 1 a run failed, 2 bad input or usage (click's own code for usage).
FAILED, BAD_INPUT = 1, 2


def launcher(launches: bool = False, writes: bool = False) -> "Launcher":
    """A launcher on the instance that the UI uses, with the configured models registered.

    Without `writes`, for a command that only reads, a home that cannot be written will do. With `launches`, for a command
    that launches something, runs of this machine whose process is gone are ended first: what they hold would keep the new
    ones waiting. A command that only looks ends nothing.
    """
    settings = load_settings()  # first of all: a fault in gradsim.toml is told before Dagster starts
    found = bare_launcher(launches, writes)
    _register_configured(found, settings)
    return found


def bare_launcher(launches: bool = False, writes: bool = False) -> "Launcher":
    """A launcher on the instance that the UI uses, which leaves the registry of models as it is."""
    from gradsim_assets.runs.environment import open_instance
    from gradsim_assets.runs.launcher import Launcher
    from gradsim_assets.runs.local_run_launcher import end_dead_runs

    found = Launcher(open_instance(writes or launches))
    if launches:
        end_dead_runs(found.instance)
    return found


def _register_configured(launcher: "Launcher", settings: Settings) -> None:
    """Registers the models of gradsim.toml that are there, and says which are not: they must not hold up the others.

    Of a trajectory these are its checkpoints.
    """
    from gradsim_assets.orchestration.model_registry import put_right
    from gradsim_assets.resources.by_name import resources

    hub = resources(settings).hub
    for sentence in put_right(launcher.instance, hub.check):
        click.echo(f"! {sentence}", err=True)
    known = launcher.models()
    # The hub is not asked with every command: those of its checkpoints that come later are registered by `gradsim models add`.
    begun = {one.run for model in known if (one := settings.checkpoint_of(model))}
    runs = [run for run in settings.trajectories if is_folder(run) or run not in begun]
    for entry in (*settings.configured, *runs):
        try:
            for model_id in hub.checkpoints(entry) if entry in runs else [entry]:
                if model_id not in known:
                    hub.check(model_id)
                    launcher.add_model(model_id)
        except (InputError, ServiceError) as error:
            click.echo(f"! {entry} under [[models]] is not registered: {error}", err=True)
