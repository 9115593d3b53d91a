"""The check that lists what is stale, missing or failed: the graph always draws a partitioned asset as fresh."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg

from gradsim_assets.core.tables.schemas import MODEL_COMPARISON
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph, StaleStatus
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.model_registry import registered
from gradsim_assets.orchestration.stale_status import LoaderContext, StatusResolver
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

UP_TO_DATE = "tables_up_to_date"

#: How many partitions the check lists, and how many causes of each.
_NAMED, _CAUSES = 50, 3

#: It is being written when the check looks.
_WHERE_IT_RUNS = asset_key(MODEL_COMPARISON.name)

_FAILED = ("failed", "its last run failed; see the run's log")


def build_status() -> list[dg.AssetChecksDefinition]:
    """The check, on the comparison of all models: there it runs once, and not with every shard."""

    @dg.asset_check(
        asset=MODEL_COMPARISON.name,
        name=UP_TO_DATE,
        description="Lists partitions that are stale (with the reason), failed or missing, for every table.",
    )
    @fails_in_one_sentence
    def tables_up_to_date(
        context: dg.AssetCheckExecutionContext, store: TableStore, compute: Compute
    ) -> dg.AssetCheckResult:
        graph = context.op_execution_context.repository_def.asset_graph
        records = status_records(context.instance, graph, LostFiles(store.tables, compute.places))
        counts = Counter(str(record.data["status"]) for record in records)
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing"
        return dg.AssetCheckResult(
            passed=not records,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{said} of {len(registered(context.instance))} models' tables"
            if records
            else "every table is up to date",
            metadata={
                **counts,
                **({"partitions": dg.MetadataValue.table(records[:_NAMED])} if records else {}),
            },
        )

    return [tables_up_to_date]


def status_records(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, files: LostFiles | None = None
) -> list[dg.TableRecord]:
    """One record {table, partition, status, why} for every partition that is stale, failed or missing.

    With `files`, one whose file is lost is missing too.
    """
    resolver = StatusResolver(instance, graph, files=files)
    keys = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable and key != _WHERE_IT_RUNS]
    return [record for key in keys for record in _records_of(instance, resolver, key)]


def _records_of(instance: dg.DagsterInstance, resolver: StatusResolver, key: dg.AssetKey) -> Iterator[dg.TableRecord]:
    definition = resolver.asset_graph.get(key).partitions_def
    failed = _failed(instance, key, definition)
    for partition in definition.get_partition_keys(dynamic_partitions_store=instance) if definition else [None]:
        found = _FAILED if partition in failed else _out_of_date(resolver, key, partition)
        if found:
            status, why = found
            yield dg.TableRecord(
                {"table": key.to_user_string(), "partition": partition or "", "status": status, "why": why}
            )


def _out_of_date(resolver: StatusResolver, key: dg.AssetKey, partition: str | None) -> tuple[str, str] | None:
    """What a partition is and why; None where it is up to date."""
    status = resolver.get_status(key, partition)
    if status == StaleStatus.MISSING:
        return "missing", "never materialised"
    if lost := resolver.why_lost(key, partition):
        return "missing", lost
    if status == StaleStatus.FRESH:
        return None
    causes = resolver.get_stale_causes(key, partition)[:_CAUSES]
    return "stale", "; ".join(
        f"{cause.dependency.asset_key.to_user_string() if cause.dependency else 'its code'} {cause.reason}"
        for cause in causes
    )


def _failed(instance: dg.DagsterInstance, key: dg.AssetKey, definition: dg.PartitionsDefinition | None) -> set[str]:
    """The partitions whose last run failed."""
    from gradsim_assets.orchestration.dagster_internals import get_and_update_asset_status_cache_value

    if definition is None:
        return set()
    value = get_and_update_asset_status_cache_value(instance, key, definition, instance, LoaderContext(instance))
    subset = value.deserialize_failed_partition_subsets(definition) if value else None
    return set(subset.get_partition_keys()) if subset else set()
