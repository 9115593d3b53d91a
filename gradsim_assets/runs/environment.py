"""The environment that Dagster processes of ours run in."""

import os
from importlib.resources import files
from pathlib import Path

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.home import gradsim_home

MODULE = "gradsim_assets.definitions"


def prepare_environment() -> Path:
    """Makes GRADSIM_HOME absolute and DAGSTER_HOME a folder in it with our dagster.yaml; both for child processes too.

    Returns the Dagster home. A DAGSTER_HOME that the user set is left alone.

    Raises:
        InputError: the home cannot be written.
    """
    home = gradsim_home()
    os.environ["GRADSIM_HOME"] = str(home.folder)
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    # Otherwise a backfill fails for good when the daemon looks at it while the code server is gone.
    os.environ.setdefault("DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR", "yes")
    if named := os.environ.get("DAGSTER_HOME"):
        return Path(named)
    try:
        write_whole(home.dagster / "dagster.yaml", instance_file().read_bytes())
    except OSError as error:
        raise InputError(
            f"{home.folder} cannot be written ({error.strerror}); set GRADSIM_HOME to a folder of yours."
        ) from error
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    return home.dagster


def instance_file() -> Path:
    """dagster.yaml: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(str(files("gradsim_assets")))
    beside = package.parent / "dagster.yaml"
    return beside if beside.is_file() else package / "dagster.yaml"
