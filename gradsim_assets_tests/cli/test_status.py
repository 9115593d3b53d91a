"""`gradsim status` on real homes: what it counts, that it ends, and that it changes nothing."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.orchestration.observations import observation
from gradsim_assets_tests.conftest import COMMAND
from gradsim_assets_tests.support.changing_home import ChangingHome, finished_home
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: Partitions of every stage where there are two shards: one model has five tables of gradients, and eighteen analyses.
STAGES = {"originals": 2, "variants": 4, "gradients": 10, "analyses": 18, "comparison": 1}

PRODUCTS = dg.AssetKey("dot_products_paraphrased")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed; tests change copies of it."""
    with finished_home(tmp_path_factory, {"shards": 2}) as home:
        yield home


@pytest.fixture
def home(finished: ChangingHome, tmp_path: Path) -> ChangingHome:
    return finished.copy(tmp_path)


def counted(home: ChangingHome, model: str | None = "") -> dict[str, dict[str, int]]:
    """By stage the states that are not 0, of the home's model or of what is the same for all (None) together with it."""
    wanted = (None, model or home.model_id)
    lines = json.loads(home.command("status", "--json").output)
    return {
        line["stage"]: {state: count for state, count in line.items() if state not in ("model", "stage") and count}
        for line in lines
        if line["model"] in wanted
    }


def begin(home: ChangingHome, asset: dg.AssetKey, partition: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of one table as the daemon creates it, in some status; nothing works on it."""
    launcher = home.launcher
    job = launcher.repository.get_job("gradients")
    tags = job.get_tags_for_partition_key(partition, [asset])
    return launcher.instance.create_run_for_job(
        job.get_subset(asset_selection={asset}), tags=tags, status=status, asset_selection=frozenset({asset})
    )


def test_everything_is_done_after_a_run(home: ChangingHome) -> None:
    assert counted(home) == {stage: {"done": count} for stage, count in STAGES.items()}
    lines = home.command("status").output.splitlines()
    assert lines[0].split() == ["model", "stage", "done", "stale", "failed", "running", "missing"]
    assert [home.model_id, "gradients", "10", "0", "0", "0", "0"] in [line.split() for line in lines]
    assert ["(all", "models)", "variants", "4", "0", "0", "0", "0"] in [line.split() for line in lines]


def test_stale_failed_running_and_missing_are_told_apart(home: ChangingHome, tmp_path: Path) -> None:
    instance = home.launcher.instance
    instance.report_runless_asset_event(observation(HF_MODEL, "another revision", home.slug))
    assert counted(home)["gradients"] == {"stale": 10} and counted(home)["comparison"] == {"stale": 1}
    assert counted(home)["analyses"] == {"stale": STAGES["analyses"]}, "all but one of them are made from what is stale"
    assert counted(home)["variants"] == {"done": 4}
    begin(home, PRODUCTS, f"{home.slug}|00", dg.DagsterRunStatus.STARTED)
    waiting = begin(home, PRODUCTS, f"{home.slug}|01", dg.DagsterRunStatus.NOT_STARTED)
    assert counted(home)["gradients"] == {"stale": 9, "running": 1}, "what waits is not at work"
    instance.report_run_failed(waiting)
    assert counted(home)["gradients"] == {"stale": 8, "running": 1, "failed": 1}
    next((home.home / "tables/paraphrased").rglob("data.parquet")).unlink()
    assert counted(home)["variants"] == {"done": 3, "missing": 1}
    other = str(save_tiny_model(tmp_path / "other"))
    home.launcher.add_model(other)
    assert counted(home, other)["analyses"] == {"missing": STAGES["analyses"]}


def test_a_failure_of_what_has_no_partitions_is_told_and_forgotten_when_it_was_made_since(home: ChangingHome) -> None:
    launcher = home.launcher
    key = dg.AssetKey("lima")
    job = launcher.repository.get_job("originals")
    run = launcher.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert counted(home)["originals"] == {"running": 2}
    launcher.instance.report_run_failed(run)
    assert counted(home)["originals"] == {"failed": 2}
    home.run("--only", "datasets", "--force")
    assert "failed" not in counted(home)["originals"] and launcher.repository.asset_graph.has(key)


def content(home: Path) -> dict[str, str]:
    """A hash of every file of a home."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.suffix not in (".db-wal", ".db-shm")
    }


def test_it_changes_nothing_and_judges_no_run(home: ChangingHome) -> None:
    begun = begin(home, PRODUCTS, f"{home.slug}|00", dg.DagsterRunStatus.STARTED)  # whose process nobody knows
    home.root.joinpath("gradsim.toml").open("a").write('[[models]]\nid = "/nowhere/model"\n')
    before = content(home.home)
    for arguments in ((), ("--json",)):
        said = home.command("status", *arguments)
        assert said.exit_code == 0
        assert "! /nowhere/model under [[models]] is not registered yet" in said.stderr
    assert content(home.home) == before
    assert home.launcher.instance.get_run_by_id(begun.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]


def test_watching_ends_in_a_pipe_when_nothing_runs_any_more(home: ChangingHome) -> None:
    instance = home.launcher.instance
    begun = begin(home, PRODUCTS, f"{home.slug}|00", dg.DagsterRunStatus.STARTED)
    command = [*COMMAND, "status", "--watch", "--json", "--interval", "0.2"]
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    watching = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert next(line for line in first if line["stage"] == "gradients")["running"] == 1
    instance.report_run_failed(begun)
    rest, _ = watching.communicate(timeout=60)
    last = [json.loads(line) for line in rest.splitlines()]
    assert [next(line for line in told if line["stage"] == "gradients")["failed"] for told in last] == [1]
    assert watching.returncode == 0


def test_without_anything_at_work_watching_shows_it_once(home: ChangingHome) -> None:
    assert home.command("status", "--watch").output == home.command("status").output


def test_models_are_listed_with_their_revision_and_how_their_tables_stand(home: ChangingHome, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", "llama")
    added = home.command("models", "add", str(other)).output.splitlines()
    shown = dict(line.split(maxsplit=1) for line in added[1:] if len(line.split()) == 2)
    assert shown["id"] == shown["link"] == str(other) and shown["settings/dtype"] == "float32"
    lines = [line.split(maxsplit=3) for line in home.command("models", "list").output.splitlines()]
    assert lines[0] == ["model", "key", "revision", "status"]
    assert [str(other), added[0], shown["revision"], "28 missing"] in lines
    assert [home.model_id, home.slug] in [line[:2] for line in lines] and "up to date" in [line[3] for line in lines]
