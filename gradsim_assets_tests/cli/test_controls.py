"""`gradsim models` with controls: what is added, listed, shown and left behind."""

import json
from pathlib import Path

import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """A fine-tuned model and the one before."""
    return str(save_tiny_model(tmp_path / "tuned")), str(save_tiny_model(tmp_path / "before", seed=1))


def listed(home: Path, config: str) -> dict[str, list[str]]:
    lines = gradsim(home, "models", "list", config=config).stdout.splitlines()
    return {line.split()[0]: line.split() for line in lines[1:]}


def test_controls_are_added_with_a_model_listed_beside_it_and_stay_when_it_goes(
    models: tuple[str, str], tmp_path: Path
) -> None:
    (tuned, before), home = models, tmp_path / "home"
    control, config = f"{tuned}+untrained", f'[[models]]\nid = "{tuned}"\nbase = "{before}"\n'
    added = gradsim(home, "models", "add", tuned, "--controls", config=config)
    assert added.returncode == 0, added.stderr
    lines = added.stdout.splitlines()
    assert [line for line in lines if line[0] != " "] == [model_slug(one) for one in (tuned, control, before)]
    told = f"  control of {tuned}: "
    assert lines[lines.index(model_slug(control)) + 1] == f"{told}the same configuration with random weights"
    assert lines[lines.index(model_slug(before)) + 1] == f"{told}the model before its fine-tuning"
    assert any(line.startswith("  weights") and "random" in line for line in lines)
    rows = listed(home, config)
    assert rows[control][-1] == rows[before][-1] == tuned and rows[tuned][-1] != tuned
    assert rows[control][2] != rows[tuned][2], "each has a revision of its own"
    assert f"{before} (control of {tuned})" in gradsim(home, "status", config=config).stdout
    counted = json.loads(gradsim(home, "status", "--json", config=config).stdout)
    assert {tuned, control, before} <= {row["model"] for row in counted}
    removed = gradsim(home, "models", "remove", tuned, config=config)
    assert f"{control} was its control and stays registered; `gradsim models remove {control}`" in removed.stdout
    assert f"{before} was its control" in removed.stdout
    assert gradsim(home, "models", "remove", control, config="").returncode == 0
    assert control not in listed(home, "")


def test_what_is_no_control_or_cannot_be_had_registers_nothing(models: tuple[str, str], tmp_path: Path) -> None:
    (tuned, _), home = models, tmp_path / "home"
    refused = gradsim(home, "models", "add", f"{tuned}+untrained", "--controls")
    assert f"{tuned}+untrained is a control itself; give the model that it is one of: {tuned}." in refused.stderr
    missing = gradsim(
        home,
        "models",
        "add",
        tuned,
        "--controls",
        config=f'[[models]]\nid = "demo"\n[[models]]\nid = "{tuned}"\nbase = "/none"\n',
    )
    assert missing.returncode == 2 and "/none is no model folder" in missing.stderr
    assert f"{tuned}+untrained" not in listed(home, "")
    alone = gradsim(home, "models", "add", "demo", "--controls")
    assert alone.stdout.splitlines()[-1] == (
        "no base is named for demo under [[models]] (base = ...), so its base is no control"
    )
    assert listed(home, "")["demo+untrained"][-1] == "demo"


def test_a_configuration_asks_for_controls_of_its_models(models: tuple[str, str], tmp_path: Path) -> None:
    (tuned, _), home = models, tmp_path / "home"
    config = f'[[models]]\nid = "{tuned}"\ncontrols = true\n'
    told = gradsim(home, "status", config=config).stderr
    assert f"! {tuned}+untrained under [[models]] is not registered yet" in told
    assert set(listed(home, config)) == {tuned, f"{tuned}+untrained"}
