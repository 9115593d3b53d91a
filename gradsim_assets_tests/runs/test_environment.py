"""The home that commands work on: its dagster.yaml is the user's, and what only reads needs no right to write."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner, Result

import gradsim_assets
from gradsim_assets.cli import main
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import create_whole
from gradsim_assets.runs import environment, instance_file
from gradsim_assets.runs.environment import open_instance
from gradsim_assets_tests.conftest import environment_of, gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model

CONFIG = "[data]\nsamples = 4\nshards = 1\ncandidates = 2\n"


def written(folder: Path) -> str:
    return (folder / "dagster.yaml").read_text()


def test_a_new_home_gets_the_file_once_and_dagster_reads_it(tmp_path: Path) -> None:
    assert instance_file.provide(tmp_path) is None
    assert yaml.safe_load(written(tmp_path)) == yaml.safe_load(instance_file.shipped().read_text())
    before = (tmp_path / "dagster.yaml").stat()
    assert instance_file.provide(tmp_path) is None
    after = (tmp_path / "dagster.yaml").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert (
        dg.DagsterInstance.from_config(str(tmp_path)).get_concurrency_config().run_queue_config.max_concurrent_runs == 2
    )


def test_an_edit_is_kept_by_commands(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "dagster").mkdir(parents=True)
    edited = instance_file.shipped().read_text().replace("max_concurrent_runs: 2", "max_concurrent_runs: 7")
    (home / "dagster/dagster.yaml").write_text(edited)
    listed = gradsim(home, "models", "list", config=CONFIG)
    assert listed.returncode == 0 and listed.stderr == ""
    assert written(home / "dagster") == edited


@pytest.mark.parametrize("text", [instance_file.content(), instance_file.shipped().read_text()], ids=["now", "before"])
def test_an_edit_is_known_whichever_version_wrote_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "dagster.yaml").write_text(text.replace("max_concurrent_runs: 2", "max_concurrent_runs: 7"))
    edited = written(tmp_path)
    assert edited != text
    assert instance_file.provide(tmp_path) is None
    assert written(tmp_path) == edited


def test_an_unedited_file_of_an_earlier_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = "telemetry:\n  enabled: false\n"
    monkeypatch.setattr(instance_file, "_EARLIER", {hashlib.sha256(old.encode()).hexdigest()})
    (tmp_path / "dagster.yaml").write_text(old)
    assert instance_file.provide(tmp_path) is None
    assert written(tmp_path) == instance_file.content()


def test_what_this_version_wrote_is_replaced_by_the_next_one_unless_it_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_file.provide(tmp_path)
    newer = tmp_path / "newer.yaml"
    newer.write_text(instance_file.shipped().read_text() + "retention:\n  schedule:\n    purge_after_days: 90\n")
    monkeypatch.setattr(instance_file, "shipped", lambda: newer)
    kept = written(tmp_path).replace("poll_interval_seconds: 30", "poll_interval_seconds: 5")
    assert instance_file.provide(tmp_path) is None
    assert yaml.safe_load(written(tmp_path)) == yaml.safe_load(newer.read_text())
    (tmp_path / "dagster.yaml").write_text(kept)
    assert instance_file.provide(tmp_path) == (
        f"{tmp_path / 'dagster.yaml'} was edited and is kept, but it lacks retention.schedule.purge_after_days; take them over "
        f"from {newer}, or remove the file and get a new one."
    )
    assert written(tmp_path) == kept


def test_all_files_that_earlier_versions_wrote_are_known() -> None:
    """As far as the checkout's history tells them."""
    root = Path(instance_file.__file__).parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        pytest.skip("no history here")
    log = ["git", "log", "--format=%h", "--", "dagster.yaml"]
    commits = subprocess.run(log, cwd=root, capture_output=True, text=True).stdout.split()
    for commit in commits:
        shown = subprocess.run(["git", "show", f"{commit}:dagster.yaml"], cwd=root, capture_output=True)
        if shown.returncode == 0:  # where it was moved away there is none
            assert hashlib.sha256(shown.stdout).hexdigest() in instance_file._EARLIER, commit


def test_processes_that_come_at_once_make_one_file_and_one_database(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "from gradsim_assets.runs.environment import open_instance; i = open_instance(True); print(i.get_runs_count())"
    )
    command = [sys.executable, "-c", code]
    several = [
        subprocess.Popen(command, env=environment_of(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in several:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, "0"), err
    assert written(home / "dagster") == instance_file.content()
    assert [path.name for path in (home / "dagster").glob(".*.part")] == []


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_whole(tmp_path / "a", "mine")
    assert not create_whole(tmp_path / "a", "other") and (tmp_path / "a").read_text() == "mine"

    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    assert create_whole(tmp_path / "b", "mine")
    assert not create_whole(tmp_path / "b", "other") and (tmp_path / "b").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with datasets and a registered model, and the model's id."""
    root = tmp_path_factory.mktemp("used")
    model = str(save_tiny_model(root / "model"))
    done = gradsim(root / "home", "run", model, "--only", "datasets", config=CONFIG)
    assert done.returncode == 0, done.stderr
    return root / "home", model


@pytest.fixture
def read_only(used: tuple[Path, str]) -> Iterator[Path]:
    """The same home mounted read-only in the same place, or without rights where this is not root."""
    home = used[0]
    if os.geteuid() == 0:
        mounted = subprocess.run(["mount", "--bind", home, home], capture_output=True).returncode == 0
        if not mounted or subprocess.run(["mount", "-o", "remount,bind,ro", home], capture_output=True).returncode:
            if mounted:
                subprocess.run(["umount", home], check=True)
            pytest.skip("mounting is not allowed here")
        yield home
        subprocess.run(["umount", "-l", home], check=True)
    else:
        folders = [home, *(path for path in home.rglob("*"))]
        for path in folders:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield home
        for path in folders:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def command(used: tuple[Path, str], read_only: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A command on that home, in this process."""
    for name, value in environment_of(used[0]).items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> Result:
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        return CliRunner().invoke(main, list(arguments), catch_exceptions=False)

    return call


def test_what_only_reads_works_on_a_home_that_cannot_be_written(
    used: tuple[Path, str], command: Callable[..., Result], tmp_path: Path
) -> None:
    home, model = used
    before = sorted(home.rglob("*"))
    listed = command("models", "list")
    assert listed.exit_code == 0 and model in listed.output, listed.output
    explained = command("explain", "bm25_candidates", model, "demo_0")
    assert explained.exit_code == 0 and "← paraphrased shard=00" in explained.output, explained.output
    exported = command("export", "paraphrased", str(tmp_path / "out"))
    assert exported.exit_code == 0 and (tmp_path / "out").is_dir(), exported.output
    planned = command("plan", model, "--tflops", "1")
    assert planned.exit_code == 0 and "backward passes" in planned.output, planned.output
    assert gradsim_assets.scan("paraphrased").collect().height == 4
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [("run", "M"), ("models", "add", "M"), ("models", "remove", "M"), ("backfill",), ("ui",), ("demo",)],
    ids=" ".join,
)
def test_what_writes_says_so_in_one_sentence(
    used: tuple[Path, str], command: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    home, model = used
    refused = command(*(model if word == "M" else word for word in arguments))
    assert refused.exit_code == 2
    assert refused.output.strip() == (
        f"Error: {home} cannot be written (no right to write, or mounted read-only); set GRADSIM_HOME to a folder of yours. "
        "What only reads works on it."
    )


def test_a_home_that_was_never_used_reads_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(environment, "_is_writable", lambda _: False)
    assert open_instance(writes=False).get_runs() == []
    with pytest.raises(InputError, match="home cannot be written"):
        open_instance(writes=True)


def test_a_database_is_copied_with_what_its_log_holds(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t (x)")
        connection.execute("insert into t values (1)")
        connection.commit()
        assert (tmp_path / "a.db-wal").stat().st_size > 0
        (tmp_path / "copy").mkdir()
        environment._copy_database(tmp_path / "a.db", tmp_path / "copy/a.db")
    with closing(sqlite3.connect(tmp_path / "copy/a.db")) as copied:
        assert copied.execute("select x from t").fetchall() == [(1,)]
