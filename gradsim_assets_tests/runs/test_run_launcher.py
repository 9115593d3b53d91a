"""Runs whose process is gone: they are noticed, and what they held is free again."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest

from gradsim_assets.orchestration.dagster_internals import WorkerStatus
from gradsim_assets.runs.instance_file import shipped
from gradsim_assets.runs.local_run_launcher import PROCESS_TAG, LocalRunLauncher, end_dead_runs
from gradsim_assets.runs.process_identity import ProcessIdentity
from gradsim_assets_tests.conftest import COMMAND, environment_of, gradsim


@pytest.fixture
def instance(tmp_path: Path) -> dg.DagsterInstance:
    (tmp_path / "dagster.yaml").write_text(shipped().read_text())
    return dg.DagsterInstance.from_config(str(tmp_path))


@dg.job
def nothing() -> None:
    """A job to have runs of."""


def started(instance: dg.DagsterInstance, process: ProcessIdentity | None) -> dg.DagsterRun:
    tags = {PROCESS_TAG: str(process)} if process else {}
    return instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags)


def me() -> ProcessIdentity:
    found = ProcessIdentity.of(os.getpid())
    assert found is not None and ProcessIdentity.parse(str(found)) == found
    return found


def gone() -> ProcessIdentity:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = ProcessIdentity.of(process.pid)
    assert found is not None and found.is_gone is False
    process.communicate(b"\n")
    return found


def test_a_run_ends_with_its_process(instance: dg.DagsterInstance) -> None:
    alive, dead = started(instance, me()), started(instance, gone())
    launcher = instance.run_launcher
    assert isinstance(launcher, LocalRunLauncher) and launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(alive).status == WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(dead).status == WorkerStatus.NOT_FOUND
    assert end_dead_runs(instance) == [dead.run_id]
    assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    assert instance.get_run_by_id(alive.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "is_gone"),
    [
        ({}, True),  # the number is free, or another process has it
        ({"host": "elsewhere"}, None),
        ({"namespace": "pid:[1]"}, None),  # a container that shares the home, or its host
        ({"boot": "before"}, True),
    ],
    ids=str,
)
def test_what_cannot_be_seen_from_here_is_not_judged(
    instance: dg.DagsterInstance, changed: dict[str, str], is_gone: bool | None
) -> None:
    process = replace(gone(), **changed)  # type: ignore[arg-type]
    assert process.is_gone is is_gone
    run = started(instance, process)
    assert end_dead_runs(instance) == ([run.run_id] if is_gone else [])


def test_a_number_that_another_process_was_given_is_not_the_same_process() -> None:
    assert replace(me(), start=str(int(me().start) - 100)).is_gone


def test_a_step_of_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = me()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert me() == before and before.is_gone is False


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_look_from_another_pid_namespace_ends_nothing(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance, me())
    code = (
        "import dagster as dg; from gradsim_assets.runs.local_run_launcher import end_dead_runs; "
        f"print(end_dead_runs(dg.DagsterInstance.from_config({str(tmp_path)!r})))"
    )
    command = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", code]
    looked = subprocess.run(command, capture_output=True, text=True)
    if "unshare failed" in looked.stderr or "Operation not permitted" in looked.stderr:
        pytest.skip("no namespaces here")
    assert looked.stdout.strip() == "[]", looked.stderr
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


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
