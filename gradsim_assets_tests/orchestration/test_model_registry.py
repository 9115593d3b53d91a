"""The registry of models, whose keys Dagster's dialog takes as they are typed."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.observe import observe

from gradsim_assets.configuration import Settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.models.hf_model import build
from gradsim_assets.orchestration.backfills import launch_backfill
from gradsim_assets.orchestration.model_registry import put_right, register, wrong_keys
from gradsim_assets.orchestration.partitions import registered
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.resources.model_hub import ModelHub


@pytest.fixture
def hub(tmp_path: Path) -> ModelHub:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    return ModelHub(home=str(tmp_path), device="cpu", models=[])


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def test_the_right_key_is_put_in_the_place_of_a_raw_id(
    instance: dg.DagsterInstance, hub: ModelHub, tmp_path: Path
) -> None:
    raw = str(tmp_path / "model")
    register(instance, "demo")
    instance.add_dynamic_partitions("model", [raw, "~zz", "/no/where"])
    (told,) = put_right(instance, hub.check)
    assert raw in told and model_slug(raw) in told
    assert registered(instance) == ["demo", model_slug(raw)]
    assert sorted(wrong_keys(instance)) == ["/no/where", "~zz"]
    assert put_right(instance, hub.check) == []


def test_a_raw_id_that_a_backfill_works_on_stays_until_it_is_done(
    instance: dg.DagsterInstance, hub: ModelHub, tmp_path: Path
) -> None:
    raw = str(tmp_path / "model")
    register(instance, raw)
    graph = build_definitions(Settings(home=tmp_path, tables=str(tmp_path))).get_repository_def().asset_graph
    wanted = targets(instance, graph, models=[model_slug(raw)])
    assert wanted
    instance.add_dynamic_partitions("model", [raw])
    everything = [
        target._replace(partition_key=str(target.partition_key).replace(model_slug(raw), raw)) for target in wanted
    ]
    launch_backfill(instance, graph, [target for target in everything if target.partition_key == raw], "dialog")
    assert put_right(instance, hub.check) == []
    assert wrong_keys(instance) == [raw] and registered(instance) == [model_slug(raw)]


def test_a_wrong_key_is_no_part_of_what_is_missing(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    graph = build_definitions(Settings(home=tmp_path, tables=str(tmp_path))).get_repository_def().asset_graph
    register(instance, "demo")
    before = targets(instance, graph)
    instance.add_dynamic_partitions("model", ["org/name"])
    assert targets(instance, graph) == before


def test_observing_the_models_heals_the_registry(instance: dg.DagsterInstance, hub: ModelHub, tmp_path: Path) -> None:
    raw = str(tmp_path / "model")
    instance.add_dynamic_partitions("model", [raw])
    (hf_model,) = build(Settings(home=Path("/home"), tables="/tables"))
    assert observe([hf_model], instance=instance, resources={"hub": hub}).success
    assert registered(instance) == [model_slug(raw)] and wrong_keys(instance) == []
