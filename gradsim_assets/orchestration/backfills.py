"""Backfills of what is missing or stale."""

import time
from collections.abc import Collection

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    AssetGraphSubset,
    BaseAssetGraph,
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
    make_new_backfill_id,
)
from gradsim_assets.orchestration.planner import Target


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
