"""What is to be computed: the one answer for `gradsim run`, for backfills and for the schedules."""

from collections.abc import Collection, Iterable

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.definitions.events import AssetKeyPartitionKey

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
    return [
        (AssetKeyPartitionKey(key, partition), place_of(partition, definition))
        for partition in definition.get_partition_keys(dynamic_partitions_store=instance)
    ]


def _touches(one: Partition, other: Partition) -> bool:
    """Whether two partitions belong together: equal in the dimensions that both have."""
    levels = dict(other.levels)
    return all(levels.get(name, value) == value for name, value in one.levels)
