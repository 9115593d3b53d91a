"""20 models x 90 shards of generated events: how long stale status, a backfill launch and UI queries take.

`python -m bench.orchestration [models] [shards]` writes build/bench/orchestration.json.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from gradsim_assets.automation import launch_backfill, targets
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.models.assets import HF_MODEL
from gradsim_assets.settings import DataSettings, Settings
from gradsim_assets.status import status_resolver

TABLE = dg.AssetKey(["dot_products", "paraphrased"])


def measure(models: int, shards: int) -> dict[str, Any]:
    """Seconds of each question, and whether the answers are right."""
    with tempfile.TemporaryDirectory() as folder:
        instance = dg.DagsterInstance.local_temp(folder)
        settings = Settings(home=Path(folder), tables=f"{folder}/tables", data=DataSettings(shards=shards))
        graph = build_definitions(settings).get_repository_def().asset_graph
        slugs = [f"model-{number:02d}" for number in range(models)]
        instance.add_dynamic_partitions("model", slugs)
        report: dict[str, Any] = {"models": models, "shards": shards, "partitions": models * shards}
        with _timed(report, "record_events"):
            _record(instance, graph, slugs, shards)
        instance.report_runless_asset_event(_observation(slugs[0], "2"))
        with _timed(report, "stale_status"):
            resolver = status_resolver(instance, graph)
            keys = graph.get(TABLE).partitions_def.get_partition_keys(dynamic_partitions_store=instance)
            stale = {str(key) for key in keys if resolver.get_status(TABLE, key) == StaleStatus.STALE}
        report["stale_partitions"] = len(stale)
        report["stale_is_right"] = stale == {f"{slugs[0]}|{shard:02d}" for shard in range(shards)}
        with _timed(report, "find_targets"):
            wanted = targets(instance, graph, keys={TABLE}, missing=False)
        with _timed(report, "launch_backfill"):
            launch_backfill(instance, graph, targets(instance, graph, keys={TABLE}, force=True), "bench")
        report["targets"] = len(wanted)
        return report


def _observation(slug: str, revision: str) -> dg.AssetObservation:
    return dg.AssetObservation(HF_MODEL, partition=slug, tags={"dagster/data_version": revision})


def _record(instance: dg.DagsterInstance, graph: Any, slugs: list[str], shards: int) -> None:
    """One materialisation for every partition of one gradient table, with all its inputs."""
    node = graph.get(TABLE)
    for slug in slugs:
        instance.report_runless_asset_event(_observation(slug, "1"))
    pointer = instance.fetch_observations(HF_MODEL, limit=1).records[0].storage_id
    tags = {"dagster/code_version": node.code_version}
    for parent in node.parent_keys:
        tags[get_input_data_version_tag(parent)] = "1"
        tags[get_input_event_pointer_tag(parent)] = str(pointer)
    tags[get_input_data_version_tag(dg.AssetKey("lima"))] = "INITIAL"
    for slug in slugs:
        for shard in range(shards):
            key = dg.MultiPartitionKey({"model": slug, "shard": f"{shard:02d}"})
            version = {"dagster/data_version": f"{slug} {shard}"}
            event = dg.AssetMaterialization(TABLE, partition=key, tags={**tags, **version})
            instance.report_runless_asset_event(event)


@contextmanager
def _timed(report: dict[str, Any], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    report[f"{name}_seconds"] = round(time.perf_counter() - started, 3)


if __name__ == "__main__":
    counts = [int(argument) for argument in sys.argv[1:]] or [20, 90]
    document = measure(*counts)
    target = Path("build/bench/orchestration.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
