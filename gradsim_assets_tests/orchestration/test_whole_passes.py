"""A backfill looks at the log again and again while its runs are at work: at whatever point, a shard's pass stays whole."""

from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.storage.tags import BACKFILL_ID_TAG

from gradsim_assets.configuration import DataSettings, Settings
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, MODEL_GENERATED, PROJECTED_SIMILARITY, SETTINGS
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.dagster_internals import AssetGraphSubset, DagsterEventType
from gradsim_assets.orchestration.planner import targets
from gradsim_assets_tests.support.backfill_looks import BackfillLooks

PASS = {asset_key(table.name, setting) for table in (DOT_PRODUCTS, PROJECTED_SIMILARITY) for setting in SETTINGS}


class Backfill:
    """A backfill of everything, whose looks are those of the daemon and whose runs only tell that they are done."""

    def __init__(self, models: int, shards: int) -> None:
        settings = Settings(home=Path("/nowhere"), tables="/nowhere", data=DataSettings(shards=shards))
        self.defs = build_definitions(settings)
        self.repository = self.defs.get_repository_def()
        self.graph = self.repository.asset_graph
        self.instance = dg.DagsterInstance.ephemeral()
        self.instance.add_dynamic_partitions("model", [f"m{number}" for number in range(models)])
        wanted = AssetGraphSubset.from_asset_partition_set(set(targets(self.instance, self.graph)), self.graph)
        self.looks = BackfillLooks(self.instance, self.repository, wanted, "b")
        self.asked: list[tuple[str | None, frozenset[dg.AssetKey]]] = []

    def look(self) -> None:
        self.asked += [(request.partition_key, frozenset(request.asset_selection)) for request in self.looks.look()]

    def run(self, request: dg.RunRequest, looks_after: set[int]) -> None:
        """A run in the order of its assets; looks after those events that are named by their numbers."""
        run = self.instance.create_run_for_job(
            self.repository.get_implicit_job_def_for_assets(list(request.asset_selection)),
            tags={BACKFILL_ID_TAG: "b", **request.tags},
            asset_selection=set(request.asset_selection),
            status=dg.DagsterRunStatus.STARTED,
        )
        for number, key in enumerate(k for k in self.graph.toposorted_asset_keys if k in request.asset_selection):
            event = dg.AssetMaterialization(key, partition=request.partition_key)
            happened = DagsterEvent(
                DagsterEventType.ASSET_MATERIALIZATION.value,
                run.job_name,
                event_specific_data=StepMaterializationData(event),
            )
            self.instance.report_dagster_event(happened, run.run_id)
            if number in looks_after:
                self.look()
        self.instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id)

    def end(self, looks_after: set[int]) -> None:
        self.look()
        while self.looks.waiting:
            self.run(self.looks.waiting.pop(0), looks_after)
            self.look()


@pytest.mark.parametrize("looks_after", [set(), {0}, {1}, {0, 1, 2, 3, 4, 5}], ids=str)
def test_a_shard_of_a_model_has_one_whole_pass(looks_after: set[int]) -> None:
    backfill = Backfill(models=2, shards=3)
    backfill.end(looks_after)
    passes = [(partition, keys & PASS) for partition, keys in backfill.asked if keys & PASS]
    assert {keys for _, keys in passes} == {frozenset(PASS)}, "products and projections of both settings come together"
    assert Counter(partition for partition, _ in passes) == {f"m{m}|{s:02d}": 1 for m in range(2) for s in range(3)}
    answers = [partition for partition, keys in backfill.asked if asset_key(MODEL_GENERATED.name) in keys]
    assert len(answers) == len(set(answers)) == 6
    done = backfill.looks.data.materialized_subset
    assert done.num_partitions_and_non_partitioned_assets == len(targets(backfill.instance, backfill.graph, force=True))
