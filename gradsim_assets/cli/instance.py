"""What commands share."""

from typing import TYPE_CHECKING

import click

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError, ServiceError, first_line

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher

#: Exit codes: 1 a run failed, 2 bad input or usage (click's own code for usage).
FAILED, BAD_INPUT = 1, 2


def launcher() -> "Launcher":
    """A launcher on the instance that the UI uses, with the configured models registered."""
    settings = load_settings()  # first of all: a fault in gradsim.toml is told before Dagster starts
    found = bare_launcher()
    _register_configured(found, settings)
    return found


def bare_launcher() -> "Launcher":
    """A launcher on the instance that the UI uses, which leaves the registry of models as it is."""
    import dagster as dg
    from dagster._core.errors import DagsterHomeNotSetError

    from gradsim_assets.runs.environment import prepare_environment
    from gradsim_assets.runs.launcher import Launcher
    from gradsim_assets.runs.local_run_launcher import end_dead_runs

    prepare_environment()
    try:
        found = Launcher(dg.DagsterInstance.get())
    except (dg.DagsterInvariantViolationError, DagsterHomeNotSetError) as error:
        raise InputError(f"Dagster's home cannot be used ({first_line(error)}); correct DAGSTER_HOME.") from error
    end_dead_runs(found.instance)
    return found


def _register_configured(launcher: "Launcher", settings: Settings) -> None:
    """Registers the models of gradsim.toml that are there, and says which are not: they must not hold up the others."""
    from gradsim_assets.orchestration.model_registry import put_right
    from gradsim_assets.resources.by_name import resources

    hub = resources(settings).hub
    for sentence in put_right(launcher.instance, hub.check):
        click.echo(f"! {sentence}", err=True)
    known = launcher.models()
    for model in settings.models:
        if model.id in known:
            continue
        try:
            hub.check(model.id)
            launcher.add_model(model.id)
        except (InputError, ServiceError) as error:
            click.echo(f"! {model.id} under [[models]] is not registered: {error}", err=True)
