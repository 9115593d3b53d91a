"""20 models x 90 shards of generated events on a real instance: stale status, backfills, automation, pages of the UI.

`python -m bench.orchestration [models] [shards] [--pages FOLDER]` writes build/bench/orchestration.json. With --pages the
web server and the daemon are started too: pages are opened in Chromium, their requests timed and their pictures kept.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.automation_condition_sensor_definition import _evaluate
from dagster._core.events import AssetObservationData, DagsterEvent, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.home import Home
from gradsim_assets.core.tables.storage import Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.checks.tables_up_to_date import status_records
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.orchestration.asset_keys import is_table, table_path
from gradsim_assets.orchestration.backfills import launch_backfill
from gradsim_assets.orchestration.dagster_internals import (
    BaseAssetGraph,
    BulkActionStatus,
    DagsterEventType,
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from gradsim_assets.orchestration.observations import observation
from gradsim_assets.orchestration.planner import partitions_of, targets
from gradsim_assets.orchestration.stale_status import StatusResolver
from gradsim_assets_tests.conftest import COMMAND
from gradsim_assets_tests.support.running_platform import Platform

TABLE = dg.AssetKey("dot_products_paraphrased")


def measure(home: Path, models: int, shards: int, pages: Path | None) -> dict[str, Any]:
    """Seconds of each question, and whether the answers are right."""
    platform = Platform(home, f"[data]\nshards = {shards}\n")
    report: dict[str, Any] = {"models": models, "shards": shards, "partitions": models * shards}
    with _timed(report, "build_definitions"):
        repository = build_definitions(load_settings(platform.environment)).get_repository_def()
    instance, graph = platform.instance, repository.asset_graph
    slugs = [f"model-{number:02d}" for number in range(models)]
    instance.add_dynamic_partitions("model", slugs)
    with _timed(report, "record_events"):
        report["events"] = record(instance, graph, slugs)
    with _timed(report, "nothing_is_stale"):
        report["stale_at_first"] = len(targets(instance, graph))
    with _timed(report, "first_automation_tick"):
        first = tick(repository, instance)
    report["requested_at_first"] = len(first.run_requests or [])
    with _timed(report, "automation_tick_when_nothing_changed"):
        second = tick(repository, instance, first.cursor)
    instance.report_runless_asset_event(observation(HF_MODEL, "another revision", slugs[0]))
    with _timed(report, "stale_status_of_one_table"):
        resolver = StatusResolver(instance, graph)
        keys = graph.get(TABLE).partitions_def.get_partition_keys(dynamic_partitions_store=instance)
        stale = {str(key) for key in keys if resolver.get_status(TABLE, key) == StaleStatus.STALE}
    report["stale_is_right"] = stale == {f"{slugs[0]}|{shard:02d}" for shard in range(shards)}
    with _timed(report, "check_tables_up_to_date"):
        report["listed"] = len(status_records(instance, graph))
    write_files(load_settings(platform.environment), instance, graph)
    with _timed(report, "gradsim_status"):
        told = subprocess.run(
            [*COMMAND, "status", "--json"], env=platform.environment, capture_output=True, text=True, check=True
        )
    report["status"] = {
        state: sum(line[state] for line in json.loads(told.stdout)) for state in ("done", "stale", "missing")
    }
    with _timed(report, "automation_tick_after_a_revision"):
        third = tick(repository, instance, second.cursor)
    report["partitions_requested"] = [
        request.asset_graph_subset.num_partitions_and_non_partitioned_assets if request.asset_graph_subset else 1
        for request in third.run_requests or []
    ]
    with _timed(report, "backfill_of_what_is_stale"):
        wanted = targets(instance, graph)
        launch_backfill(instance, graph, wanted, "bench")
    report["stale_and_what_follows"] = len(wanted)
    with _timed(report, "backfill_of_everything"):
        wanted = targets(instance, graph, force=True)
        launch_backfill(instance, graph, wanted, "bench")
    report["targets"] = len(wanted)
    for backfill in instance.get_backfills():  # nothing is to be computed here
        instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    if pages:
        report |= look(platform, pages)
    return report


def look(platform: Platform, pages: Path) -> dict[str, Any]:
    """A launch as the UI makes it, and the pages with this many partitions."""
    from bench.pages import visit

    report: dict[str, Any] = {}
    platform.start()
    try:
        with _timed(report, "launch_from_the_ui"):
            backfill = platform.backfill([list(TABLE.path)])
        with _timed(report, "first_run_queued"):
            platform.wait(platform.busy, 300, "runs of the backfill")
        cancel = "mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
        platform.query(cancel, id=backfill)
        platform.wait_for_backfill(backfill, 600)
        report["pages"] = visit(platform, pages)
    finally:
        platform.stop()
    return report


def tick(repository: dg.RepositoryDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One evaluation of the rerun sensor, as the code server does it."""
    context = dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor)
    return _evaluate(repository.get_sensor_def("rerun_on_model_revision"), context)  # type: ignore[arg-type]


def write_files(settings: Settings, instance: dg.DagsterInstance, graph: BaseAssetGraph) -> None:
    """A small file for every partition of every table and a page for every report, so that none counts as lost."""
    tables, home = Tables(settings.tables), Home(settings.home)
    frame = pl.DataFrame({"variant_id": ["a"], "similarity": [0.5]})
    for key in graph.materializable_asset_keys:
        for _, place in partitions_of(instance, graph, key):
            if is_table(key):
                path = table_path(key)
                tables.write(path, frame, place, {"table": "/".join(path), "partition": str(place)})
            else:
                home.report(str(place.model)).mkdir(parents=True)
                for file in ("index.html", "summary.json"):
                    (home.report(str(place.model)) / file).write_text("{}")


def record(instance: dg.DagsterInstance, graph: BaseAssetGraph, slugs: Sequence[str]) -> int:
    """One materialisation for every partition of every table, each from the latest of all its inputs."""
    latest = {HF_MODEL: _store(instance, [observation(HF_MODEL, "1", slug) for slug in slugs])}
    for source in graph.external_asset_keys - {HF_MODEL}:
        parts = graph.get(source).partitions_def
        keys = parts.get_partition_keys() if parts else [None]
        latest[source] = _store(instance, [observation(source, "1", key) for key in keys])
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if not node.is_materializable:
            continue
        tags = {"dagster/code_version": str(node.code_version), "dagster/data_version": "1"}
        for parent in node.parent_keys:
            tags[get_input_data_version_tag(parent)] = "1"
            tags[get_input_event_pointer_tag(parent)] = str(latest[parent])
        definition = node.partitions_def
        partitions = definition.get_partition_keys(dynamic_partitions_store=instance) if definition else [None]
        latest[key] = _store(instance, [dg.AssetMaterialization(key, partition=p, tags=tags) for p in partitions])
    return max(latest.values())


def _store(instance: dg.DagsterInstance, events: Sequence[dg.AssetMaterialization | dg.AssetObservation]) -> int:
    """Stores events of one asset in one transaction (one each takes a quarter of an hour); the last one's storage id."""
    storage: Any = instance.event_log_storage
    entries = [_entry(event) for event in events]
    with storage.index_transaction() as connection:
        ids = [connection.execute(storage.prepare_insert_event(e)).inserted_primary_key[0] for e in entries]
        storage._store_asset_event_tags(connection, entries, ids)
        storage._store_asset_event(connection, entries[-1], ids[-1])
    return int(ids[-1])


def _entry(event: dg.AssetMaterialization | dg.AssetObservation) -> EventLogEntry:
    materialised = isinstance(event, dg.AssetMaterialization)
    kind = DagsterEventType.ASSET_MATERIALIZATION if materialised else DagsterEventType.ASSET_OBSERVATION
    data = StepMaterializationData(event) if materialised else AssetObservationData(event)
    return EventLogEntry(
        user_message="",
        level=20,
        run_id=RUNLESS_RUN_ID,
        timestamp=time.time(),
        job_name=RUNLESS_JOB_NAME,
        dagster_event=DagsterEvent(kind.value, RUNLESS_JOB_NAME, event_specific_data=data),
        error_info=None,
    )


@contextmanager
def _timed(report: dict[str, Any], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    report[f"{name}_seconds"] = round(time.perf_counter() - started, 3)
    print(f"{name}: {report[f'{name}_seconds']} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=int, nargs="?", default=20)
    parser.add_argument("shards", type=int, nargs="?", default=90)
    parser.add_argument("--pages", type=Path, help="folder for pictures of the UI's pages")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        document = measure(Path(folder), arguments.models, arguments.shards, arguments.pages)
    target = Path("build/bench/orchestration.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
