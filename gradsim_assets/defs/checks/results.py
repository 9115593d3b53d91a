"""What checks return."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.partitions import partition_of


def checked_partition(context: dg.AssetCheckExecutionContext, dimension: str | None) -> Partition:
    """The partition that a check looks at; `dimension` says what its key is a key of, None that there is none."""
    if dimension is None:
        return Partition()
    return partition_of(context.op_execution_context.partition_key, dimension)


def check_result(
    found: soundness.Findings,
    key: dg.AssetKey,
    partition: Partition,
    name: str,
    metadata: Mapping[str, Any],
    **more: Any,
) -> dg.AssetCheckResult:
    """The result of a check with its findings in words; `more` goes to Dagster's result as it is."""
    where = f"{key.to_user_string()} {partition}"
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=name,
        passed=not found,
        description="; ".join([f"{where}: {found[0]}", *found[1:]]) if found else f"{where} is sound",
        metadata={**metadata, "findings": dg.MetadataValue.md("\n".join(f"- {f}" for f in found) or "none")},
        **more,
    )
