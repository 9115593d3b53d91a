"""What commands share."""

from typing import TYPE_CHECKING

from gradsim_assets.configuration import load_settings

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher

#: Exit codes: 1 a run failed, 2 bad input or usage (click's own code for usage).
FAILED, BAD_INPUT = 1, 2


def launcher(launches: bool = False) -> "Launcher":
    """A launcher on the instance that the UI uses, with the configured models registered.

    With `launches`, for a command that launches something, runs of this machine whose process is gone are ended first: what
    they hold would keep the new ones waiting. A command that only looks ends nothing.
    """
    settings = load_settings()  # first of all: a fault in gradsim.toml is told before Dagster starts
    import dagster as dg

    from gradsim_assets.runs.environment import prepare_environment
    from gradsim_assets.runs.launcher import Launcher
    from gradsim_assets.runs.local_run_launcher import end_dead_runs

    prepare_environment()
    found = Launcher(dg.DagsterInstance.get())
    if launches:
        end_dead_runs(found.instance)
    for model in settings.models:
        found.add_model(model.id)
    return found
