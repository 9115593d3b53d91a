"""Homes of versions whose assets had keys of two parts: their tables are found, and Dagster's old events are in nobody's way."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.defs.checks.tables_up_to_date import status_records
from gradsim_assets.defs.stages import GRADIENTS, ORIGINALS, VARIANTS
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.backfills import launch_backfill
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.runs.launcher import Launcher

CONFIG = "[data]\nsamples = 6\nshards = 1\n"


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """A model `m` of whose tables the old events say that they were all materialised."""
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    monkeypatch.setenv("GRADSIM_CONFIG", str(tmp_path / "gradsim.toml"))
    (tmp_path / "gradsim.toml").write_text(CONFIG)
    launcher = Launcher(dg.DagsterInstance.ephemeral())
    launcher.add_model("m")
    for path in [path for path in PATHS.values() if launcher.repository.asset_graph.has(asset_key(*path))]:
        definition = launcher.repository.asset_graph.get(asset_key(*path)).partitions_def
        keys = definition.get_partition_keys(dynamic_partitions_store=launcher.instance) if definition else [None]
        for key in keys:
            event = dg.AssetMaterialization(dg.AssetKey(list(path)), partition=key, tags={"dagster/data_version": "1"})
            launcher.instance.report_runless_asset_event(event)
    return launcher


def test_what_has_a_new_key_counts_as_missing_and_is_computed_again(launcher: Launcher, tmp_path: Path) -> None:
    graph = launcher.repository.asset_graph
    (wanted,) = launcher.work(GRADIENTS, "m").values()
    assert {
        asset_key(table, setting) for table in ("dot_products", "projected_similarity") for setting in SETTINGS
    } <= set(wanted)
    missing = {
        record.data["table"]
        for record in status_records(launcher.instance, graph)
        if record.data["status"] == "missing"
    }
    assert {"dot_products_paraphrased", "retrieval_model_generated"} <= missing
    assert not [name for name in missing if "/" in str(name)], "assets that there are no more are not asked for"
    for stage in (ORIGINALS, VARIANTS):
        for partition, assets in launcher.work(stage, "m", force=True).items():
            assert launcher.run(stage, partition, assets).error is None
    assert Tables(str(tmp_path / "tables")).read(["bm25_candidates"], Partition(shard="00")).height == 6 * 5


def test_a_backfill_asks_for_new_keys_alone(launcher: Launcher) -> None:
    graph = launcher.repository.asset_graph
    wanted = targets(launcher.instance, graph, models=["m"])
    assert {target.asset_key for target in wanted} <= set(graph.materializable_asset_keys)
    launch_backfill(launcher.instance, graph, wanted, "test")
