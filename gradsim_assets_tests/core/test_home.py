"""Where everything local lies."""

from pathlib import Path

import pytest

from gradsim_assets.core.home import Home, gradsim_home


def test_the_layout_is_what_readme_and_users_scripts_say() -> None:
    home = Home(Path("/h"))
    assert home.tables == Path("/h/tables")
    assert home.models == Path("/h/models")
    assert home.paraphrases == Path("/h/paraphrases")
    assert home.dagster == Path("/h/dagster")
    assert home.gpus == Path("/h/gpus")
    assert home.report("org--model") == Path("/h/reports/org--model")
    assert home.scratch("gradients", "org--model", "00") == Path("/h/scratch/gradients/org--model/00")


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert gradsim_home({}).folder == gradsim_home({"GRADSIM_HOME": ""}).folder == tmp_path / ".gradsim"
    assert gradsim_home({"GRADSIM_HOME": "here"}).folder == tmp_path / "here"
    assert gradsim_home({"GRADSIM_HOME": "~/runs"}).folder == Path("/home/somebody/runs")
