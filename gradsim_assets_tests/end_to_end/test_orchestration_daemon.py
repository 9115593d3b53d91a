"""Backfills and reruns on a real instance: daemon, code server and web server at work, driven as the UI drives them.

The tests share one platform and run in order: models are added, backfilled, change, and fail.
"""

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.defs.models.hf_model import REVISION_TAG
from gradsim_assets_tests.conftest import COMMAND
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.running_platform import Platform, table_of
from gradsim_assets_tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

SHARDS = ("00", "01", "02", "03")
PRODUCTS = ["dot_products_paraphrased"]  # the path of the asset's key
HUB_MODEL = "org/c"
#: Not the key of any model, and what the first step of a run says of it.
WRONG_KEYS = {
    "org/name": "'org/name' is not the partition key of a model; the right key is 'org--name'. Remove the wrong one with "
    "`gradsim models remove 'org/name'` and add the model with `gradsim models add 'org/name'`.",
    "GPT 5 (best)!": "'GPT 5 (best)!' is not the partition key of a model; the right key is 'GPT~205~20~28best~29~21'.",
    "org--nowhere": "there is no model org/nowhere on the hub (or HF_TOKEN may not see it); correct its id.",
}


@dataclass
class Study:
    """The platform with its three models: two folders, and one on the hub."""

    platform: Platform
    hub: HubServer
    folders: dict[str, Path]

    @property
    def slugs(self) -> dict[str, str]:
        return {"a": model_slug(str(self.folders["a"])), "b": model_slug(str(self.folders["b"])), "c": "org--c"}

    def revisions(self, slug: str) -> set[str]:
        """The revisions that all tables of a model were computed from."""
        tables = Tables(str(self.platform.home / "tables"))
        found = set()
        for path in Path(tables.root).rglob("data.parquet"):
            if f"model={slug}" in path.parts:
                found.add(str(tables.provenance(*table_of(path, Path(tables.root)))["revision"]))
        return found

    def settled(self, name: str, revision: str) -> bool:
        """Whether everything of a model is of one revision, and its report and the comparison followed."""
        if self.platform.busy() or self.revisions(self.slugs[name]) != {revision}:
            return False
        newest = {
            key: max(
                record.timestamp
                for record in self.platform.instance.fetch_materializations(dg.AssetKey(key), limit=1).records
            )
            for key in (
                "retrieval_paraphrased",
                "retrieval_model_generated",
                "report",
                "model_comparison",
            )
        }
        last = max(newest["retrieval_paraphrased"], newest["retrieval_model_generated"])
        return newest["model_comparison"] > last and newest["report"] > last

    def quiet(self) -> None:
        """Two more ticks of the sensor, in which nothing may be asked for."""
        time.sleep(70)
        assert not self.platform.busy()

    def partitions_of(self, name: str) -> set[tuple[str, str | None]]:
        """Everything that follows from a revision of a model, the comparison aside."""
        slug = self.slugs[name]
        return {key for key in self.platform.materialised(0) if key[1] and key[1].split("|")[0] == slug}

    def run_at_work_on(self, slug: str, revision: str) -> dg.DagsterRun | None:
        """A run that has begun its work on a revision."""
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={REVISION_TAG: revision})
        found = [
            run for run in self.platform.instance.get_runs(started) if run.tags.get("dagster/partition/model") == slug
        ]
        return found[0] if found else None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The console script on the platform's home."""
        command = [*COMMAND, *arguments]
        return subprocess.run(command, env=self.platform.environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    root = tmp_path_factory.mktemp("models")
    names = ("a", "b", "c", "other", "another", "third")
    folders = {name: save_tiny_model(root / name, seed=seed) for seed, name in enumerate(names)}
    hub = HubServer()
    hub.push(HUB_MODEL, folders["c"])
    config = "[data]\nsamples = 8\nshards = 4\n[automation]\nobserve_seconds = 10\n"
    model = f'[[models]]\nid = "{folders["a"]}"\n'  # the others are added in the UI
    cache = tmp_path_factory.mktemp("cache")
    platform = Platform(tmp_path_factory.mktemp("platform"), config + model, HF_HOME=str(cache), **hub.environment)
    platform.start()
    yield Study(platform, hub, folders)
    platform.stop()
    hub.close()


def test_a_model_added_in_the_ui_has_missing_partitions_only(study: Study) -> None:
    assert study.platform.instance.get_dynamic_partitions("model") == [study.slugs["a"]]
    for name in ("b", "c"):
        assert study.platform.add_model(study.slugs[name]) == "AddDynamicPartitionSuccess"
    query = (
        "query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { partitionStats "
        "{ numMaterialized numPartitions numFailed numMaterializing } } } }"
    )
    stats = study.platform.query(query, k={"path": PRODUCTS})["assetNodeOrError"]["partitionStats"]
    assert stats == {"numMaterialized": 0, "numPartitions": 12, "numFailed": 0, "numMaterializing": 0}


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_wrong_key_fails_at_its_first_step_and_is_removed_by_command(study: Study, key: str) -> None:
    assert study.platform.add_model(key) == "AddDynamicPartitionSuccess"
    backfill = study.platform.backfill([["parameters_per_component"]], [key])
    assert study.platform.wait_for_backfill(backfill) == "COMPLETED_FAILED"
    (run,) = study.platform.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    events = study.platform.instance.all_logs(run.run_id)
    steps = [event.dagster_event for event in events if event.dagster_event and event.dagster_event.is_step_event]
    failures = [step for step in steps if step.is_step_failure]
    assert [step.step_key for step in failures] == ["parameters_per_component"]
    assert not [step for step in steps if step.is_step_up_for_retry]
    said = failures[0].step_failure_data.user_failure_data.description
    assert said.startswith(WRONG_KEYS[key])
    happened = [event.dagster_event for event in events if event.dagster_event]
    (captured,) = [e.logs_captured_data for e in happened if e.event_type_value == "LOGS_CAPTURED"]
    logs = study.platform.query(
        "query($k: [String!]!) { capturedLogs(logKey: $k) { stdout stderr } }",
        k=[run.run_id, "compute_logs", captured.file_key],
    )["capturedLogs"]
    assert "Failure" in logs["stderr"] and WRONG_KEYS[key][:40] in logs["stderr"]
    removed = study.command("models", "remove", key)
    assert removed.returncode == 0, removed.stderr
    assert set(study.platform.instance.get_dynamic_partitions("model")) == set(study.slugs.values())


def test_a_backfill_computes_every_partition_once(study: Study) -> None:
    study.platform.switch_on("observe_sources")
    started = time.monotonic()
    assert (
        study.platform.wait_for_backfill(study.platform.backfill(study.platform.assets()), 3000) == "COMPLETED_SUCCESS"
    )
    print(f"backfill of 3 models x 4 shards: {time.monotonic() - started:.0f} s")
    before = study.platform.materialised(0)
    assert len([key for key in before if key[0] == PRODUCTS[0]]) == 12
    assert set(before.values()) == {1}
    study.platform.switch_on("rerun_on_model_revision")
    time.sleep(45)  # its first evaluation; nothing is stale, so nothing may run
    assert study.platform.materialised(0) == before


def test_a_revision_reruns_exactly_its_partitions_once(study: Study) -> None:
    wanted = study.partitions_of("b")
    changed = time.time()
    shutil.copy(study.folders["other"] / "model.safetensors", study.folders["b"] / "model.safetensors")
    revision = resolve(str(study.folders["b"])).name
    study.platform.wait(lambda: study.settled("b", revision), 1500, "the reruns of the changed model")
    print(f"reruns after a revision: {time.time() - changed:.0f} s")
    study.quiet()
    reran = study.platform.materialised(changed)
    assert set(reran) - {("model_comparison", None)} == wanted
    assert set(reran.values()) == {1}


def test_a_revision_during_a_run_of_the_one_before_ends_with_its_tables(study: Study) -> None:
    changed = time.time()
    first = study.hub.push(HUB_MODEL, study.folders["other"])
    run = study.platform.wait(lambda: study.run_at_work_on("org--c", first), 600, "a run of the first revision")
    refused = study.command("models", "remove", HUB_MODEL)
    assert refused.returncode == 2 and "org/c " in refused.stderr, refused.stderr
    second = study.hub.push(HUB_MODEL, study.folders["another"])
    study.platform.wait(lambda: study.settled("c", second), 1500, "the tables of the second revision")
    study.quiet()
    ended = study.platform.instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.tags[REVISION_TAG] == first
    assert ended.status == dg.DagsterRunStatus.SUCCESS, "it ends with the revision that it began with"
    assert study.revisions("org--c") == {second}
    assert {key[1].split("|")[0] for key in study.platform.materialised(changed) if key[1]} == {"org--c"}


def test_two_revisions_within_one_tick_end_with_the_last_and_cost_one_rerun(study: Study) -> None:
    wanted = study.partitions_of("c")
    changed = time.time()
    study.hub.push(HUB_MODEL, study.folders["other"])
    last = study.hub.push(HUB_MODEL, study.folders["third"])
    study.platform.wait(lambda: study.settled("c", last), 1500, "the tables of the last revision")
    study.quiet()
    reran = study.platform.materialised(changed)
    assert set(reran) - {("model_comparison", None)} == wanted
    assert set(reran.values()) == {1}


def test_a_folder_that_changes_during_a_run_ends_with_tables_of_its_last_content(study: Study) -> None:
    changed, slug = time.time(), study.slugs["a"]
    weights = study.folders["a"] / "model.safetensors"
    shutil.copy(study.folders["another"] / "model.safetensors", weights)
    first = resolve(str(study.folders["a"])).name
    study.platform.wait(lambda: study.run_at_work_on(slug, first), 600, "a run of the first content")
    shutil.copy(study.folders["third"] / "model.safetensors", weights)
    last = resolve(str(study.folders["a"])).name
    study.platform.wait(lambda: study.settled("a", last), 1500, "the tables of the last content")
    study.quiet()
    assert study.revisions(slug) == {last} != {first}
    assert {key[1].split("|")[0] for key in study.platform.materialised(changed) if key[1]} == {slug}


def test_failed_partitions_are_named_and_can_be_rerun_alone(study: Study) -> None:
    slug = study.slugs["b"]
    path = Path(str(Tables(str(study.platform.home / "tables")).path(["paraphrased"], Partition(shard="02"))))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    backfill = study.platform.backfill([PRODUCTS], [f"{slug}|{shard}" for shard in ("01", "02")])
    assert study.platform.wait_for_backfill(backfill) == "COMPLETED_FAILED"
    path.write_bytes(whole)
    query = (
        "query($k: AssetKeyInput!) { assetNodeOrError(assetKey: $k) { ... on AssetNode { assetPartitionStatuses { ... on "
        "MultiPartitionStatuses { ranges { primaryDimStartKey secondaryDim { ... on DefaultPartitionStatuses "
        "{ failedPartitions } } } } } } } }"
    )
    node = study.platform.query(query, k={"path": PRODUCTS})["assetNodeOrError"]
    failed = [
        (part["primaryDimStartKey"], shard)
        for part in node["assetPartitionStatuses"]["ranges"]
        for shard in part["secondaryDim"]["failedPartitions"]
    ]
    assert failed == [(slug, "02")]
    started = time.time()
    again = study.platform.backfill([PRODUCTS], [f"{slug}|02"])
    assert study.platform.wait_for_backfill(again) == "COMPLETED_SUCCESS"
    assert study.platform.materialised(started) == Counter({(PRODUCTS[0], f"{slug}|02"): 1})
