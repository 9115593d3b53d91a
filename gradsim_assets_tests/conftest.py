"""The console script on a home of its own, and one whole demo run that the tests share."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from gradsim_assets.core.tables.schemas import (
    GRADIENT_INDEX,
    INDEX_CANDIDATES,
    INDEX_RECALL,
    PRECONDITIONED_PRODUCTS,
)
from gradsim_assets.orchestration.asset_keys import (
    BY_RETRAINING,
    COUNTERFACTUAL,
    CURVATURES,
    OVER_CHECKPOINTS,
    of_each_setting,
)
from gradsim_assets_tests.support.browser import CHROMIUM, launch_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: The console script, of whatever environment the tests run in.
COMMAND = (sys.executable, "-c", "from gradsim_assets.cli import main; main()")

#: Names of the tables that a demo run leaves out: they are made where preconditioners, checkpoints or an index are configured, or
#: retraining is asked for.
NOT_OF_THE_DEMO = {
    key.to_user_string()
    for key in (
        *CURVATURES,
        *of_each_setting(PRECONDITIONED_PRODUCTS),
        *BY_RETRAINING,
        *COUNTERFACTUAL,
        *OVER_CHECKPOINTS,
        dg.AssetKey(GRADIENT_INDEX.name),
        dg.AssetKey(INDEX_RECALL.name),
        *of_each_setting(INDEX_CANDIDATES),
    )
}


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that works on a home of its own, with the configuration that lies in it."""
    # One process at a time here, so that it does not fight for the cores with pytest's own threads.
    variables = {
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
        "GRADSIM_HOME": str(home),
        "GRADSIM_CONFIG": str(home / "gradsim.toml"),
        **more,
    }
    variables.pop("DAGSTER_HOME", None)
    return variables


def gradsim(
    home: Path, *arguments: str, shards: int = 4, config: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the console script on a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "gradsim.toml").write_text(config or f"[data]\nshards = {shards}\n", encoding="utf-8")
    command = [*COMMAND, *arguments]
    return subprocess.run(command, env=environment_of(home, **environment), capture_output=True, text=True, timeout=900)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Sends the tests of a file to one process (`--dist loadfile`), and all files that share the demo run to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "demo" if _shares_the_demo(config.rootpath / file) else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@cache
def _shares_the_demo(file: Path) -> bool:
    return re.search(r"^def \w+\([^)]*\bdemo: ", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The home of a whole demo run with 4 shards, and what it printed."""
    home = tmp_path_factory.mktemp("demo")
    run = gradsim(home, "demo")
    assert run.returncode == 0, run.stdout + run.stderr
    return home, run.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """The system's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        chromium = launch_chromium(playwright)
        yield chromium
        chromium.close()
