"""Runs made on a copy of an instance, recorded on the instance itself."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.orchestration.dagster_internals import StaleStatus, get_input_event_pointer_tag
from gradsim_assets.orchestration.observations import observation, observed_versions
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.orchestration.stale_status import StatusResolver
from gradsim_assets.runs.made_elsewhere import last_event, take_over, write_run

SHARDS = Partitions(2).shards
SOURCE = dg.AssetKey("source")


@dg.observable_source_asset(partitions_def=SHARDS)
def source() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition(dict.fromkeys(SHARDS.get_partition_keys(), "1"))


@dg.asset(partitions_def=SHARDS, deps=[source], code_version="1")
def first(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(f"first {context.partition_key}"))


@dg.asset(partitions_def=SHARDS, deps=[first], code_version="1")
def second(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(f"second {context.partition_key}"))


@dg.asset_check(asset=second, blocking=True, partitions_def=SHARDS)
def sound() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


GRAPH = dg.Definitions(assets=[source, first, second], asset_checks=[sound]).get_repository_def().asset_graph


class Instances:
    """An instance that has observed a source, and a copy of its storage as a task of an array job has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.here = self._instance("here")
        for shard in SHARDS.get_partition_keys():
            self.observe("1", shard)
        self.shared = last_event(self.here)
        shutil.copytree(root / "here", root / "copy")
        self.copy = self._instance("copy")

    def _instance(self, name: str) -> dg.DagsterInstance:
        (self.root / name).mkdir(exist_ok=True)
        (self.root / name / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        return dg.DagsterInstance.from_config(str(self.root / name))

    def observe(self, version: str, shard: str = "00", there: bool = False) -> None:
        instance = self.copy if there else self.here
        instance.report_runless_asset_event(observation(SOURCE, version, shard))

    def make(self, shard: str = "00", there: bool = True) -> str:
        """A run of both assets and the check, on the copy or here; its id."""
        instance = self.copy if there else self.here
        done = dg.materialize([source, first, second, sound], instance=instance, partition_key=shard)
        assert done.success
        return done.run_id

    def bring(self, run_id: str) -> Path:
        """The file of a run of the copy."""
        file = self.root / f"{run_id}.json.gz"
        write_run(self.copy, run_id, self.shared, file)
        return file

    def status(self, key: str, shard: str = "00") -> StaleStatus:
        return StatusResolver(self.here, GRAPH).get_status(dg.AssetKey(key), shard)

    def record(self, key: str, shard: str = "00") -> dg.EventLogRecord:
        """The latest materialisation here."""
        wanted = dg.AssetRecordsFilter(dg.AssetKey(key), asset_partitions=[shard])
        return self.here.fetch_materializations(wanted, limit=1).records[0]

    def pointer(self, key: str, parent: str, shard: str = "00") -> int:
        """The number of the event that the latest materialisation here was made from."""
        event = self.record(key, shard).asset_materialization
        assert event and event.tags
        return int(event.tags[get_input_event_pointer_tag(dg.AssetKey(parent))])


@pytest.fixture
def instances(tmp_path: Path) -> Instances:
    return Instances(tmp_path)


def test_a_run_is_recorded_with_its_id_times_events_and_checks(instances: Instances) -> None:
    made = instances.make()
    instances.make("01", there=False)  # numbers of the copy mean something else here
    take_over(instances.here, instances.bring(made))
    run = instances.here.get_run_by_id(made)
    assert run is not None and run.status == dg.DagsterRunStatus.SUCCESS
    there, here = (
        [(event.timestamp, event.message) for event in one.all_logs(made)] for one in (instances.copy, instances.here)
    )
    assert here == there
    assert instances.here.get_job_snapshot(str(run.job_snapshot_id)).name == run.job_name
    assert {instances.status(key, shard) for key in ("first", "second") for shard in ("00", "01")} == {
        StaleStatus.FRESH
    }


def test_events_name_those_that_they_were_made_from_by_their_numbers_here(instances: Instances) -> None:
    made = instances.make()
    for _ in range(3):
        instances.make("01", there=False)
    take_over(instances.here, instances.bring(made))
    assert instances.pointer("second", "first") == instances.record("first").storage_id
    assert instances.pointer("first", "source") <= instances.shared
    checks = instances.here.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("second"), "sound"), limit=20
    )
    target = next(one for one in checks if one.run_id == made).event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert target.target_materialization_data is not None
    assert target.target_materialization_data.storage_id == instances.record("second").storage_id


def test_a_run_that_another_run_of_the_copy_was_made_from_is_found_again(instances: Instances) -> None:
    one, other = instances.make(), instances.make()
    take_over(instances.here, instances.bring(one))
    instances.make("01", there=False)
    take_over(instances.here, instances.bring(other))
    assert instances.record("second").run_id == other
    assert instances.pointer("second", "first") == instances.record("first").storage_id


def test_what_was_made_from_is_stale_once_that_changes(instances: Instances) -> None:
    made = instances.make()
    instances.observe("2")
    take_over(instances.here, instances.bring(made))
    assert instances.status("first") == StaleStatus.STALE


def test_a_version_that_only_the_copy_has_seen_is_recorded(instances: Instances) -> None:
    instances.observe("2", there=True)
    made = instances.make()
    take_over(instances.here, instances.bring(made))
    assert observed_versions(instances.here, SOURCE)["00"] == "2"
    assert instances.status("first") == StaleStatus.FRESH
    instances.observe("3")
    assert instances.status("first") == StaleStatus.STALE


def test_taking_over_twice_or_after_a_kill_records_everything_once(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = instances.make()
    file = instances.bring(made)
    stored = 0
    store = instances.here.store_event

    def killed_midway(event: dg.EventLogEntry) -> None:
        nonlocal stored
        if stored == 12:
            raise KeyboardInterrupt
        stored += 1
        store(event)

    with monkeypatch.context() as patch:
        patch.setattr(instances.here, "store_event", killed_midway)
        with pytest.raises(KeyboardInterrupt):
            take_over(instances.here, file)
    assert len(instances.here.all_logs(made)) == 12
    take_over(instances.here, file)
    take_over(instances.here, file)
    assert [event.message for event in instances.here.all_logs(made)] == [
        event.message for event in instances.copy.all_logs(made)
    ]
    wanted = dg.AssetRecordsFilter(dg.AssetKey("second"), asset_partitions=["00"])
    assert len(instances.here.fetch_materializations(wanted, limit=10).records) == 1
    assert instances.status("second") == StaleStatus.FRESH
