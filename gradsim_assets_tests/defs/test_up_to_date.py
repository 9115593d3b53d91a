"""The check `tables_up_to_date`, as Dagster runs it: which models lack tables, and what mends it."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import DataSettings, Settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.model_registry import register

CHECK = dg.AssetCheckKey(dg.AssetKey("model_comparison"), "tables_up_to_date")


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def checked(root: Path, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """What the check says, run alone as "Execute" in the UI does."""
    settings = Settings(home=root, tables=str(root / "tables"), data=DataSettings(shards=2))
    job = build_definitions(settings).resolve_job_def("comparison")
    part = job.get_subset(asset_selection=set(), asset_check_selection={CHECK})
    (evaluation,) = part.execute_in_process(instance=instance).get_asset_check_evaluations()
    return evaluation


def test_a_registered_model_without_tables_is_a_warning_that_names_it_and_the_mend(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    register(instance, "org/name")
    found = checked(tmp_path, instance)
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN
    assert found.description == (
        "1 of 1 models are out of date (tables of all models: 5 missing; org/name: 24 missing); `gradsim run org/name` "
        "computes what is missing or stale"
    )
    assert found.metadata["missing"].value == 29


def test_of_many_models_each_has_a_line_and_the_first_are_named(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    models = [f"org/m{number}" for number in range(5)]
    for model in models:
        register(instance, model)
    instance.add_dynamic_partitions("model", ["org/m0"])  # a wrong key out of the dialog is no model
    found = checked(tmp_path, instance)
    said = str(found.description)
    assert said.startswith("5 of 5 models are out of date (tables of all models: 5 missing; org/m0: 24 missing; ")
    assert "org/m2: 24 missing; and 2 models more); `gradsim run MODEL` or `gradsim backfill` computes" in said
    listed = {row.data["model"]: row.data["partitions"] for row in found.metadata["models"].records}  # type: ignore[union-attr]
    assert listed == {"tables of all models": "5 missing", **dict.fromkeys(models, "24 missing")}
    partitions = [row.data["partition"] for row in found.metadata["partitions"].records]  # type: ignore[union-attr]
    assert len(partitions) == 50 and {model_slug("org/m0")} <= {str(p).split("|")[0] for p in partitions}


def test_without_a_model_what_all_of_them_need_is_told(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    assert str(checked(tmp_path, instance).description).startswith(
        "0 of 0 models are out of date (tables of all models: 5 missing); "
    )
