"""Backfills of what is missing or stale."""

import time
from collections.abc import Collection, Iterable

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id

from gradsim_assets.core.partition_keys import is_slug
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.partitions import place_of
from gradsim_assets.orchestration.stale_status import StatusResolver

Target = AssetKeyPartitionKey


def targets(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,
    *,
    models: Collection[str] | None = None,
    shards: Collection[str] | None = None,
    keys: Collection[dg.AssetKey] | None = None,
    missing: bool = True,
    force: bool = False,
) -> list[Target]:
    """Partitions that are out of date, and what follows from them, in topological order.

    `models`, `shards` and `keys` restrict the answer; `missing` includes what was never computed; `force` takes all.
    """
    resolver = StatusResolver(instance, graph)
    wanted = {StaleStatus.STALE, *([StaleStatus.MISSING] if missing else [])}
    needed: dict[dg.AssetKey, list[tuple[Partition, Target]]] = {}
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if not node.is_materializable or (keys is not None and key not in keys):
            continue
        above = [where for parent in node.parent_keys for where, _ in needed.get(parent, [])]
        for target, where in _partitions(instance, graph, key):
            if (models is not None and where.model not in (None, *models)) or (
                shards is not None and where.shard not in (None, *shards)
            ):
                continue
            if force:  # nobody asks how it stands
                needed.setdefault(key, []).append((where, target))
                continue
            status = resolver.get_status(key, target.partition_key)
            follows = status != StaleStatus.MISSING or missing
            if status in wanted or (follows and any(_touches(where, other) for other in above)):
                needed.setdefault(key, []).append((where, target))
    return [target for found in needed.values() for _, target in found]


def _partitions(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey
) -> Iterable[tuple[Target, Partition]]:
    definition = graph.get(key).partitions_def
    if definition is None:
        return [(AssetKeyPartitionKey(key), Partition())]
    found = [
        (AssetKeyPartitionKey(key, partition), place_of(partition, definition))
        for partition in definition.get_partition_keys(dynamic_partitions_store=instance)
    ]
    # A wrong key out of the dialog is no model, and nothing could be computed of it.
    return [(target, where) for target, where in found if where.model is None or is_slug(where.model)]


def _touches(one: Partition, other: Partition) -> bool:
    """Whether two partitions belong together: equal in the dimensions that both have."""
    levels = dict(other.levels)
    return all(levels.get(name, value) == value for name, value in one.levels)


def launch_backfill(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, wanted: Collection[Target], title: str, priority: int = 0
) -> str:
    """Hands a backfill to the daemon, one partition per run, as the UI does; returns its id."""
    backfill_id = make_new_backfill_id()
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=time.time(),
            tags={"dagster/priority": str(priority), "gradsim/launched_by": title},
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset.from_asset_partition_set(set(wanted), graph),
            title=title,
            description=None,
            run_config=None,
        )
    )
    return backfill_id


def unfinished_backfills() -> BulkActionsFilter:
    """Filter for backfills that the daemon is still at work on."""
    at_work = (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING)
    return BulkActionsFilter(statuses=list(at_work))


def works_on(backfill: PartitionBackfill, slug: str) -> bool:
    """Whether a backfill covers a model."""
    names = list(backfill.partition_names or [])
    if data := backfill.asset_backfill_data:
        for subset in data.target_subset.partitions_subsets_by_asset_key.values():
            names += subset.get_partition_keys()
    return any(slug in name.split("|") for name in names)
