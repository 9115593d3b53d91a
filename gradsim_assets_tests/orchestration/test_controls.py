"""What a change costs a model and its control, and which tables of other models a table reads: a real home, a tiny model, real runs."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradsim_assets.configuration import ModelSettings, Settings
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.controls import places_read
from gradsim_assets_tests.orchestration.test_changes import ANALYSES, OF_MODEL, OF_SIMILARITIES, whole
from gradsim_assets_tests.support.changing_home import ChangingHome, Named, finished_home
from gradsim_assets_tests.support.same_tables import differences
from gradsim_assets_tests.support.tiny_models import save_tiny_model

POSITIONS, CONTROL = 256, "+untrained"


def of_control(named: set[Named]) -> set[Named]:
    """The same partitions of the control."""
    return {
        (table, f"{CONTROL}|{partition}" if partition else CONTROL)
        for table, partition in named
        if table != "model_comparison"
    }


#: What shows the figures of a control that were others.
SHOWN = whole(*OF_SIMILARITIES, "report", "model_comparison")


def other_weights(home: ChangingHome) -> None:
    save_tiny_model(home.folder, seed=1, positions=POSITIONS)


def other_configuration(home: ChangingHome) -> None:
    config = home.folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "initializer_range": 0.5}))


def other_settings_of_the_control(home: ChangingHome) -> None:
    file = home.root / "gradsim.toml"
    text = file.read_text()
    file.write_text(f'{text}[[models]]\nid = "{home.model_id}{CONTROL}"\ndtype = "bfloat16"\n')


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed of a model and of its control."""
    data, compute = {"shards": 2, "candidates": 3}, {"projections": [0.01]}
    with finished_home(tmp_path_factory, data, compute, positions=POSITIONS) as home:
        before = home.now()
        assert home.command("models", "add", home.model_id, "--controls").exit_code == 0
        home.run()
        assert set(home.computed_since(before)) == of_control(OF_MODEL | ANALYSES) | SHOWN
        assert home.out_of_date() == {}
        yield home


@pytest.fixture
def changed(
    finished: ChangingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[ChangingHome], None]], ChangingHome]]:
    """A copy of the finished home that was changed and looked at; the model is put back afterwards."""
    kept = tmp_path / "model"
    shutil.copytree(finished.folder, kept)

    def change(make: Callable[[ChangingHome], None]) -> ChangingHome:
        home = finished.copy(tmp_path / "changed", monkeypatch)
        make(home)
        home.look()
        return home

    yield change
    shutil.rmtree(finished.folder)
    shutil.copytree(kept, finished.folder)


#: What is stale after each change as soon as the sensor has looked, and what a run computes, each once.
CHANGES: dict[str, tuple[Callable[[ChangingHome], None], set[Named], set[Named]]] = {
    "other weights of the model": (other_weights, OF_MODEL, OF_MODEL | ANALYSES),
    "another configuration of the model": (
        other_configuration,
        OF_MODEL | of_control(OF_MODEL),
        OF_MODEL | ANALYSES | of_control(OF_MODEL | ANALYSES),
    ),
    "other settings of the control": (
        other_settings_of_the_control,
        of_control(OF_MODEL),
        of_control(OF_MODEL | ANALYSES) | SHOWN,
    ),
}

#: The same numbers come out of the model under a configuration that only random weights are drawn by.
_MAY_STAY = {"another configuration of the model": ANALYSES - SHOWN}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "other weights of the model" else pytest.mark.slow) for name in CHANGES],
)
def test_a_run_computes_what_a_change_has_made_stale_of_a_model_and_its_control(
    name: str, changed: Callable[[Callable[[ChangingHome], None]], ChangingHome], tmp_path: Path
) -> None:
    make, stale, computed = CHANGES[name]
    home = changed(make)
    assert set(home.out_of_date()) == stale
    before = home.now()
    home.run()
    found = home.computed_since(before)
    assert computed - _MAY_STAY.get(name, set()) <= set(found) <= computed and set(found.values()) <= {1}
    assert home.out_of_date() == {} and home.planned() == set()
    if name == "other weights of the model":
        fresh = home.fresh(tmp_path / "fresh")
        assert fresh.command("models", "add", fresh.model_id, "--controls").exit_code == 0
        fresh.run()
        assert differences(home.tables(), fresh.tables()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_automation_computes_it_once(
    name: str, changed: Callable[[Callable[[ChangingHome], None]], ChangingHome], finished: ChangingHome
) -> None:
    make, stale, computed = CHANGES[name]
    home = changed(lambda home: None)
    before, cursor = home.now(), home.settle()
    assert home.computed_since(before) == {}
    make(home)
    home.look()
    assert set(home.out_of_date()) == stale
    home.settle(cursor)
    found = home.computed_since(before)
    assert computed - _MAY_STAY.get(name, set()) <= set(found) <= computed
    # Whoever has new retrieval figures is compared at once, and once more when it stands beside its control.
    assert {named for named, count in found.items() if count > 1} <= whole("model_comparison")
    assert home.out_of_date() == {} and home.planned() == set()


@pytest.mark.slow
def test_a_backfill_of_all_models_computes_it_once(
    changed: Callable[[Callable[[ChangingHome], None]], ChangingHome],
) -> None:
    make, _, computed = CHANGES["another configuration of the model"]
    home = changed(make)
    before, planned = home.now(), home.planned()
    home.backfill()
    found = home.computed_since(before)
    assert set(found) == planned == computed and set(found.values()) == {1}
    assert home.out_of_date() == {}


def test_a_comparison_reads_the_tables_of_its_own_controls_alone(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        tables=str(tmp_path / "tables"),
        models=(ModelSettings(id="org/tuned", base="org/base"), ModelSettings(id="org/other")),
    )
    graph = build_definitions(settings).get_repository_def().asset_graph
    read = {
        "org--tuned": ["org--tuned", "org--tuned+untrained", "org--base"],
        "org--other": ["org--other", "org--other+untrained"],
        "org--tuned+untrained": ["org--tuned+untrained"],
    }
    for setting in SETTINGS:
        for model, others in read.items():
            where, compared = Partition(model), asset_key("control_comparison", setting)
            assert places_read(graph, compared, where) == [Partition(other) for other in others]
            assert places_read(graph, asset_key("agreement", setting), where) == [where]
            assert places_read(graph, asset_key("dot_products", setting), Partition(model, "01")) == [
                Partition(model, "01")
            ]
