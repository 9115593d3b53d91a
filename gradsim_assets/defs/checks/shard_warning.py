"""Checks that warn of what is doubtful in a table that all models share, shard by shard."""

from collections.abc import Callable, Iterator

import dagster as dg
import polars as pl

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.storage import Tables
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.checks.results import check_result, checked_partition
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.table_store import TableStore


def shard_warning(
    name: str,
    op: str,
    schema: TableSchema,
    partitions: Partitions,
    findings: Callable[[pl.DataFrame, Tables], soundness.Findings],
    description: str,
) -> dg.AssetChecksDefinition:
    """The check `name` of a table by shard, which warns of what `findings` finds in it (beside all tables); `op` names its step."""
    key = asset_key(schema.name)
    spec = dg.AssetCheckSpec(name, asset=key, partitions_def=partitions.shards, description=description)

    @dg.multi_asset_check(name=op, specs=[spec], can_subset=True)
    @fails_in_one_sentence
    def check_shard(context: dg.AssetCheckExecutionContext, store: TableStore) -> Iterator[dg.AssetCheckResult]:
        partition = checked_partition(context, "shard")
        found = findings(store.tables.read([schema.name], partition), store.tables)
        yield check_result(found, key, partition, name, {}, severity=dg.AssetCheckSeverity.WARN)

    return check_shard
