"""A check that shows flagged paraphrases and answers."""

from collections.abc import Iterator

import dagster as dg

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.schemas import PARAPHRASED
from gradsim_assets.defs.checks.results import check_result, checked_partition
from gradsim_assets.defs.failures import input_errors
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.table_store import TableStore

FLAGS = "no_flags"


def flags(partitions: Partitions) -> dg.AssetChecksDefinition:
    """The check of the column `flag`, for one configuration."""
    spec = dg.AssetCheckSpec(
        FLAGS,
        asset=asset_key(PARAPHRASED.name),
        partitions_def=partitions.shards,
        description="No paraphrase is doubtful: refused, cut, identical, in another language, answered in place of rewritten.",
    )

    @dg.multi_asset_check(name="paraphrases_unflagged", specs=[spec], can_subset=True)
    def check_flags(context: dg.AssetCheckExecutionContext, store: TableStore) -> Iterator[dg.AssetCheckResult]:
        partition = checked_partition(context, "shard")
        with input_errors():
            frame = store.tables.read([PARAPHRASED.name], partition)
        found = soundness.flag_findings(frame)
        yield check_result(
            found, asset_key(PARAPHRASED.name), partition, FLAGS, {}, severity=dg.AssetCheckSeverity.WARN
        )

    return check_flags
