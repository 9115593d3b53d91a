"""The registry of models: what may be added, and what must not be removed."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.stages import ANALYSES, GRADIENTS, RETRAINING
from gradsim_assets.orchestration.asset_keys import on_request
from gradsim_assets.orchestration.backfills import launch_backfill
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.runs.launcher import Launcher


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    monkeypatch.delenv("GRADSIM_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return Launcher(dg.DagsterInstance.ephemeral())


def test_a_model_may_be_added_twice_and_comes_back_by_its_id(launcher: Launcher) -> None:
    launcher.add_model("org/name@v1")
    assert launcher.add_model("org/name@v1") == "org--name@v1"
    assert launcher.models() == ["org/name@v1"]
    launcher.remove_model("org/name@v1")
    assert launcher.models() == []


def test_what_is_not_there_cannot_be_removed(launcher: Launcher) -> None:
    with pytest.raises(InputError, match="org/name is not registered"):
        launcher.remove_model("org/name")


@pytest.mark.parametrize(("stage", "partition"), [(GRADIENTS, "org/name|00"), (ANALYSES, "org/name")])
def test_a_raw_key_from_the_dialog_fails_its_first_step_with_one_sentence(
    launcher: Launcher, stage: object, partition: str
) -> None:
    launcher.instance.add_dynamic_partitions("model", ["org/name"])
    graph = launcher.repository.asset_graph
    asset = dg.AssetKey("dot_products_paraphrased" if stage is GRADIENTS else "parameters_per_component")
    assert graph.has(asset)
    outcome = launcher.run(stage, partition, [asset])  # type: ignore[arg-type]
    assert outcome.error == (
        "'org/name' is not the partition key of a model; the right key is 'org--name'. Remove the wrong one with "
        "`gradsim models remove 'org/name'` and add the model with `gradsim models add 'org/name'`."
    )
    launcher.remove_model("org/name")
    assert launcher.instance.get_dynamic_partitions("model") == []


def test_a_model_whose_runs_are_in_flight_stays(launcher: Launcher) -> None:
    launcher.add_model("m")
    job = launcher.repository.get_job(ANALYSES.job)
    launcher.instance.create_run_for_job(job, tags={"dagster/partition": "m"}, status=dg.DagsterRunStatus.STARTED)
    with pytest.raises(InputError, match="m has 1 runs in flight"):
        launcher.remove_model("m")
    assert launcher.models() == ["m"]


def test_a_model_that_a_backfill_has_not_reached_yet_stays_too(launcher: Launcher) -> None:
    launcher.add_model("m")
    launcher.add_model("other")
    graph = launcher.repository.asset_graph
    wanted = targets(launcher.instance, graph, models=["m"])
    backfill = launch_backfill(launcher.instance, graph, wanted, "test")
    with pytest.raises(InputError, match=f"m is part of backfill {backfill}"):
        launcher.remove_model("m")
    launcher.remove_model("other")
    assert launcher.models() == ["m"]


def test_a_new_model_has_missing_partitions_only(launcher: Launcher) -> None:
    launcher.add_model("m")
    graph = launcher.repository.asset_graph
    wanted = [target for target in targets(launcher.instance, graph) if target.partition_key]
    of_model = {target for target in wanted if str(target.partition_key).split("|")[0] == "m"}
    settings = Settings(home=Path("/nowhere"), tables="/nowhere")
    by_shard = len(
        [
            k
            for k in build_definitions(settings).get_repository_def().asset_graph.materializable_asset_keys
            if isinstance(graph.get(k).partitions_def, dg.MultiPartitionsDefinition) and not on_request(k)
        ]
    )
    assert len([t for t in of_model if "|" in str(t.partition_key)]) == by_shard * 4
    assert targets(launcher.instance, graph, models=["m"], missing=False) == []


def test_one_slice_of_a_model_can_be_asked_for_alone(launcher: Launcher) -> None:
    launcher.add_model("m")
    assert list(launcher.work(GRADIENTS, "m", within=Partition("m", "02"))) == ["m|02"]
    assert len(launcher.work(RETRAINING, "m", requested=True)) > 2
    assert list(launcher.work(RETRAINING, "m", within=Partition("m", subset="01"), requested=True)) == ["m|01"]
