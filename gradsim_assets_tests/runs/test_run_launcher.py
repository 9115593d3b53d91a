"""Runs whose process is gone: they are noticed, and what they held is free again."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus

from gradsim_assets.runs.environment import instance_file
from gradsim_assets.runs.local_run_launcher import LocalRunLauncher, end_dead_runs, is_alive
from gradsim_assets_tests.conftest import COMMAND, environment_of, gradsim


@pytest.fixture
def instance(tmp_path: Path) -> dg.DagsterInstance:
    (tmp_path / "dagster.yaml").write_text(instance_file().read_text())
    return dg.DagsterInstance.from_config(str(tmp_path))


@dg.job
def nothing() -> None:
    """A job to have runs of."""


def started(instance: dg.DagsterInstance, said: str | None) -> dg.DagsterRun:
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    if said:
        instance.report_engine_event(said, run, EngineEventData.in_process(1))
    return run


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("said", ["Started process for run (pid: {}).", "Executing steps in process (pid: {})"])
def test_a_run_ends_with_its_process(instance: dg.DagsterInstance, said: str) -> None:
    alive, dead = started(instance, said.format(os.getpid())), started(instance, said.format(gone_pid()))
    launcher = instance.run_launcher
    assert isinstance(launcher, LocalRunLauncher) and launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(alive).status == WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(dead).status == WorkerStatus.NOT_FOUND
    assert end_dead_runs(instance) == [dead.run_id]
    assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    assert instance.get_run_by_id(alive.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_a_number_that_another_process_was_given_is_not_the_same_process() -> None:
    began = psutil.Process().create_time()
    assert is_alive(os.getpid(), began + 0.5)
    assert not is_alive(os.getpid(), began - 60), "what was at work before this process began was another one"


def test_a_run_that_has_not_said_anything_yet_is_left_alone(instance: dg.DagsterInstance) -> None:
    started(instance, None)
    assert end_dead_runs(instance) == []


def slots(home: Path) -> list[str]:
    """Runs that hold the place in the pool, by the instance's own table (read without creating it)."""
    file = home / "dagster/history/runs/index.db"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            query = "select run_id from concurrency_slots where run_id is not null"
            return [row[0] for row in connection.execute(query)]
    except sqlite3.OperationalError:  # not there yet, or locked
        return []


def test_a_killed_command_does_not_keep_the_next_one_waiting(tmp_path: Path) -> None:
    home, config = tmp_path / "home", "[data]\nsamples = 4\nshards = 1\n"
    assert gradsim(home, "run", "demo", "--only", "datasets", config=config).returncode == 0
    command = [*COMMAND, "run", "demo", "--only", "gradients"]
    process = subprocess.Popen(command, env=environment_of(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (held := slots(home)):
        assert process.poll() is None, "the command ended before it was killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert slots(home) == held
    again = gradsim(home, "run", "demo", "--only", "gradients", config=config)
    assert again.returncode == 0, again.stderr
    assert "✓ gradients demo|00 (5 assets" in again.stdout
    assert slots(home) == []
