"""A backfill looks at the log again and again while its runs are at work: at whatever point, a shard's pass stays whole."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.storage.tags import BACKFILL_ID_TAG

from gradsim_assets.configuration import DataSettings, EvaluationSettings, PreconditionerSettings, Settings
from gradsim_assets.core.tables.schemas import (
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    DOT_PRODUCTS,
    MODEL_GENERATED,
    PRECONDITIONED_PRODUCTS,
    PRECONDITIONERS,
    PROJECTED_SIMILARITY,
)
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key, of_each_setting
from gradsim_assets.orchestration.dagster_internals import AssetGraphSubset, DagsterEventType
from gradsim_assets.orchestration.planner import targets
from gradsim_assets_tests.support.backfill_looks import BackfillLooks

PASS = frozenset(of_each_setting(DOT_PRODUCTS, PROJECTED_SIMILARITY))
PRECONDITIONED = PASS | {*of_each_setting(PRECONDITIONED_PRODUCTS)}
ALL_PAIRS_PASS = frozenset(of_each_setting(ALL_PAIRS, ALL_PAIRS_PROJECTED, ALL_PAIRS_PRECONDITIONED))


class Backfill:
    """A backfill of everything, whose looks are those of the daemon and whose runs only tell that they are done.

    With `methods` there are preconditioners, and it is of what is made on request, too.
    """

    def __init__(self, models: int, shards: int, methods: Sequence[str] = ()) -> None:
        settings = Settings(
            home=Path("/nowhere"),
            tables="/nowhere",
            data=DataSettings(shards=shards),
            evaluation=EvaluationSettings(subsets=2),
            preconditioners=PreconditionerSettings.model_validate({"methods": methods}),
        )
        self.defs = build_definitions(settings)
        self.repository = self.defs.get_repository_def()
        self.graph = self.repository.asset_graph
        self.instance = dg.DagsterInstance.ephemeral()
        self.instance.add_dynamic_partitions("model", [f"m{number}" for number in range(models)])
        all_of_them = targets(self.instance, self.graph, requested=bool(methods))
        wanted = AssetGraphSubset.from_asset_partition_set(set(all_of_them), self.graph)
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
    assert {keys for _, keys in passes} == {PASS}, "products and projections of both settings come together"
    assert Counter(partition for partition, _ in passes) == {f"m{m}|{s:02d}": 1 for m in range(2) for s in range(3)}
    answers = [partition for partition, keys in backfill.asked if asset_key(MODEL_GENERATED.name) in keys]
    assert len(answers) == len(set(answers)) == 6
    done = backfill.looks.data.materialized_subset
    assert done.num_partitions_and_non_partitioned_assets == len(targets(backfill.instance, backfill.graph, force=True))


@pytest.mark.parametrize("looks_after", [set(), {0}, {0, 1, 2, 3, 4, 5}], ids=str)
def test_with_preconditioners_each_pass_waits_for_all_curvature_and_is_whole(looks_after: set[int]) -> None:
    backfill = Backfill(models=1, shards=2, methods=PRECONDITIONERS)
    backfill.end(looks_after)
    for whole, partitions in ((PRECONDITIONED, ["m0|00", "m0|01"]), (ALL_PAIRS_PASS, ["m0"])):
        passes = [(partition, keys & whole) for partition, keys in backfill.asked if keys & whole]
        assert sorted(passes) == [(partition, whole) for partition in partitions]
