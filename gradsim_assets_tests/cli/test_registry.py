"""Models by command: only what is there is registered, and what is wrong holds up nothing else."""

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.runs.environment import prepare_environment
from gradsim_assets_tests.conftest import gradsim


def keys(home: Path, monkeypatch: pytest.MonkeyPatch, add: str | None = None) -> list[str]:
    """The keys in the registry of a home, after one more was typed into the dialog."""
    monkeypatch.setenv("GRADSIM_HOME", str(home))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(prepare_environment()))
    with dg.DagsterInstance.get() as instance:
        if add:
            instance.add_dynamic_partitions("model", [add])
        return sorted(instance.get_dynamic_partitions("model"))


def test_what_is_not_there_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        ("run", "no-such/typo"),
        ("models", "add", "/nonexistent"),
        ("models", "add", "a b|c"),
        ("run", "x", "--only", "analyses"),
    ):
        run = gradsim(tmp_path, *command, HF_HUB_OFFLINE="1")
        assert run.returncode in (1, 2) and run.stderr.startswith("Error: "), run.stderr
        assert len(run.stderr.splitlines()) == 1 and "Traceback" not in run.stdout
    long = tmp_path / ("模" * 40) / "model"
    long.mkdir(parents=True)
    (long / "config.json").write_text("{}")
    assert "folders are named by it" in gradsim(tmp_path, "models", "add", str(long)).stderr
    assert keys(tmp_path, monkeypatch) == ["demo"]


def test_a_wrong_key_or_model_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    keys(tmp_path, monkeypatch, add="~zz")
    keys(tmp_path, monkeypatch, add=str(model))
    config = '[[models]]\nid = "demo"\n[[models]]\nid = "/nonexistent"\n'
    listed = gradsim(tmp_path, "models", "list", config=config, HF_HUB_OFFLINE="1")
    lines = sorted(line.split(maxsplit=3) for line in listed.stdout.splitlines()[1:])
    assert lines == sorted(
        [["demo", "demo", "-", "38 missing"], [str(model), model_slug(str(model)), "-", "38 missing"]]
    )
    told = json.loads(gradsim(tmp_path, "models", "list", "--json", config=config, HF_HUB_OFFLINE="1").stdout)
    assert {one["key"]: [one["model"], one["revision"], one["status"], one["control_of"]] for one in told} == {
        key: [name, None, "38 missing", None] for name, key in (("demo", "demo"), (str(model), model_slug(str(model))))
    }
    assert "/nonexistent under [[models]] is not registered: /nonexistent is no model folder" in listed.stderr
    assert f"{model} is the id of a model; its partition key" in listed.stderr
    assert "~zz is no model's key; remove it with `gradsim models remove '~zz'`" in listed.stderr
    handed = gradsim(tmp_path, "backfill", "--only", "originals", config=config)
    assert "2 partitions of 2 assets" in handed.stdout, handed.stderr
    assert gradsim(tmp_path, "models", "remove", "~zz", config=config).returncode == 0
    assert keys(tmp_path, monkeypatch) == sorted(["demo", model_slug(str(model))])


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for command in (("models", "list"), ("plan", "demo"), ("run", "demo")):
        run = gradsim(tmp_path, *command, GRADSIM_HOME=str(tmp_path / "file"))
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr
        assert run.stderr.startswith(f"Error: {tmp_path / 'file'}") and "Not a directory" in run.stderr
    run = gradsim(tmp_path, "models", "list", DAGSTER_HOME=os.fspath(tmp_path / "none"))
    assert run.returncode == 0 or "DAGSTER_HOME" in run.stderr


def test_a_relative_folder_is_registered_by_the_path_that_every_process_reads_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's daemon has another working directory than the command that registered a model."""
    for place in ("one", "two"):
        (tmp_path / place / "model").mkdir(parents=True)
        (tmp_path / place / "model" / "config.json").write_text("{}")
    home = tmp_path / "home"
    keys(home, monkeypatch, add=model_slug("./model"))  # as an older version registered it
    for place in ("one", "two"):
        monkeypatch.chdir(tmp_path / place)
        added = gradsim(home, "models", "add", "model")
        assert added.returncode == 0, added.stderr
    whole = [str(tmp_path / place / "model") for place in ("one", "two")]
    assert keys(home, monkeypatch) == sorted(["demo", model_slug("./model"), *map(model_slug, whole)])
    with pytest.raises(InputError, match=r"^\./model is a relative path.*`gradsim models remove \./model`"):
        resolve("./model")
    for named in ("./model", "../one/model"):
        assert gradsim(home, "models", "remove", named).returncode == 0
    assert keys(home, monkeypatch) == sorted(["demo", model_slug(whole[1])])
