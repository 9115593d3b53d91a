"""The check that lists what is stale, missing or failed: the graph always draws a partitioned asset as fresh."""

from collections import Counter

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import StaleStatus

from gradsim_assets.core.tables.schemas import MODEL_COMPARISON, TABLES
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.orchestration.stale_status import LoaderContext, StatusResolver

UP_TO_DATE = "tables_up_to_date"

_NAMED = 50


def build_status() -> list[dg.AssetChecksDefinition]:
    """The check, on the comparison of all models: there it runs once, and not with every shard."""

    @dg.asset_check(
        asset=MODEL_COMPARISON.name,
        name=UP_TO_DATE,
        description="Lists partitions that are stale (with the reason), failed or missing, for every table.",
    )
    def tables_up_to_date(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        graph = context.op_execution_context.repository_def.asset_graph
        records = status_records(context.instance, graph)
        counts = Counter(str(record.data["status"]) for record in records)
        said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing"
        return dg.AssetCheckResult(
            passed=not records,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{said} of {len(context.instance.get_dynamic_partitions(str(MODELS.name)))} models' tables"
            if records
            else "every table is up to date",
            metadata={
                **counts,
                **({"partitions": dg.MetadataValue.table(records[:_NAMED])} if records else {}),
            },
        )

    return [tables_up_to_date]


def status_records(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> list[dg.TableRecord]:
    """One record {table, partition, status, why} for every partition that is stale, failed or missing."""
    resolver = StatusResolver(instance, graph)
    records = []
    for key in graph.toposorted_asset_keys:
        if key.path[0] not in TABLES or key.path[0] == MODEL_COMPARISON.name:
            continue
        failed = _failed(instance, graph, key)
        definition = graph.get(key).partitions_def
        for partition in definition.get_partition_keys(dynamic_partitions_store=instance) if definition else [None]:
            status = resolver.get_status(key, partition)
            if partition in failed:
                said, why = "failed", "its last run failed; see the run's log"
            elif status == StaleStatus.STALE:
                causes = resolver.get_stale_causes(key, partition)
                said, why = (
                    "stale",
                    "; ".join(
                        f"{c.dependency.asset_key.to_user_string() if c.dependency else 'its code'} {c.reason}"
                        for c in causes[:3]
                    ),
                )
            elif status == StaleStatus.MISSING:
                said, why = "missing", "never materialised"
            else:
                continue
            records.append(
                dg.TableRecord({"table": "/".join(key.path), "partition": partition or "", "status": said, "why": why})
            )
    return records


def _failed(instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey) -> set[str]:
    from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

    definition = graph.get(key).partitions_def
    if definition is None:
        return set()
    value = get_and_update_asset_status_cache_value(instance, key, definition, instance, LoaderContext(instance))
    subset = value.deserialize_failed_partition_subsets(definition) if value else None
    return set(subset.get_partition_keys()) if subset else set()
