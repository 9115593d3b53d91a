"""The check `tables_up_to_date`, as Dagster runs it: which models lack tables, and what mends it."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.orchestration.dagster_internals import ReconstructableRepository
from gradsim_assets.orchestration.model_registry import register
from gradsim_assets.runs.environment import MODULE
from gradsim_assets.runs.launcher import Launcher

CHECK = dg.AssetCheckKey(dg.AssetKey("model_comparison"), "tables_up_to_date")


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    (tmp_path / "gradsim.toml").write_text("[data]\nshards = 2\n")
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    monkeypatch.setenv("GRADSIM_CONFIG", str(tmp_path / "gradsim.toml"))
    monkeypatch.chdir(tmp_path)
    return Launcher(dg.DagsterInstance.ephemeral())


def checked(launcher: Launcher) -> dg.AssetCheckEvaluation:
    """What the check says, run alone as "Execute" in the UI does."""
    repository = ReconstructableRepository.for_module(MODULE, "defs")
    job = repository.get_reconstructable_job("comparison")
    part = job.get_subset(asset_selection=frozenset(), asset_check_selection=frozenset({CHECK}))
    with dg.execute_job(part, launcher.instance) as result:
        (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_a_registered_model_without_tables_is_a_warning_that_names_it_and_the_mend(
    launcher: Launcher,
) -> None:
    register(launcher.instance, "org/name")
    found = checked(launcher)
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN
    assert found.description == (
        "1 of 1 models is out of date (tables of all models: 6 missing; org/name: 28 missing); `gradsim run org/name` "
        "computes what is missing or stale"
    )
    assert found.metadata["missing"].value == 34


def test_of_many_models_each_has_a_line_and_the_first_are_named(launcher: Launcher) -> None:
    models = [f"org/m{number}" for number in range(5)]
    for model in models:
        register(launcher.instance, model)
    launcher.instance.add_dynamic_partitions("model", ["org/m0"])  # a wrong key out of the dialog is no model
    found = checked(launcher)
    said = str(found.description)
    assert said.startswith("5 of 5 models are out of date (tables of all models: 6 missing; org/m0: 28 missing; ")
    assert "org/m2: 28 missing; and 2 models more); `gradsim run MODEL` or `gradsim backfill` computes" in said
    listed = {row.data["model"]: row.data["partitions"] for row in found.metadata["models"].records}  # type: ignore[union-attr]
    assert listed == {"tables of all models": "6 missing", **dict.fromkeys(models, "28 missing")}
    partitions = [row.data["partition"] for row in found.metadata["partitions"].records]  # type: ignore[union-attr]
    assert len(partitions) == 50 and {model_slug("org/m0")} <= {str(p).split("|")[0] for p in partitions}


def test_without_a_model_what_all_of_them_need_is_told(launcher: Launcher) -> None:
    assert str(checked(launcher).description).startswith(
        "0 of 0 models are out of date (tables of all models: 6 missing); "
    )
