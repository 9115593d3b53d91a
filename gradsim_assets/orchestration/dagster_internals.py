"""All that we use of Dagster and that is not its public interface; nothing else in the package imports or touches such parts.

`gradsim_assets_tests/orchestration/test_dagster_internals.py` holds what we count on, and says which part is gone or has changed
in another version.
"""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    INPUT_EVENT_POINTER_TAG_PREFIX,
    SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD,
    CachingStaleStatusResolver,
    DataProvenance,
    DataVersion,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.definitions.partitions.context import use_partition_loading_context
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.event_api import EventLogRecord
from dagster._core.events import DagsterEventType
from dagster._core.execution.api import execute_job
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.execution.stats import RunStepKeyStatsSnapshot, StepEventStatus
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.loader import LoadingContext
from dagster._core.snap import ExecutionPlanSnapshot, JobSnap
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.utils import make_new_backfill_id
from dagster._serdes import deserialize_value, serialize_value

__all__ = [
    "DATA_VERSION_TAG",
    "INPUT_EVENT_POINTER_TAG_PREFIX",
    "NOT_FINISHED_STATUSES",
    "SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD",
    "AssetGraphSubset",
    "AssetGraphView",
    "AssetKeyPartitionKey",
    "BaseAssetGraph",
    "BulkActionStatus",
    "BulkActionsFilter",
    "CachingStaleStatusResolver",
    "CheckRunHealthResult",
    "CheckStepHealthResult",
    "DagsterEventType",
    "DagsterHomeNotSetError",
    "DataProvenance",
    "DataVersion",
    "DefaultRunLauncher",
    "EventLogRecord",
    "ExecutionPlanSnapshot",
    "JobSnap",
    "LaunchRunContext",
    "LoadingContext",
    "OpenResolver",
    "PartitionBackfill",
    "ReconstructableRepository",
    "RunStepKeyStatsSnapshot",
    "StaleStatus",
    "StepEventStatus",
    "StepHandler",
    "StepHandlerContext",
    "UnresolvedAssetJobDefinition",
    "WorkerStatus",
    "deserialize_value",
    "exchange_step_handler",
    "execute_job",
    "extract_data_version_from_entry",
    "failures_after",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
    "instance_of",
    "make_new_backfill_id",
    "multiple_process_executor_requirements",
    "read_again_after",
    "read_until",
    "serialize_value",
    "use_partition_loading_context",
]

#: The version of Dagster in which all of it was seen.
SEEN_IN = "1.13.27"


class OpenResolver(CachingStaleStatusResolver):
    """Dagster's resolver of stale statuses, with names for those of its parts that others may replace."""

    @property
    def instance(self) -> dg.DagsterInstance:
        """The instance whose records it reads."""
        return self._instance

    def dependencies(self, key: AssetKeyPartitionKey) -> Sequence[AssetKeyPartitionKey]:
        """The partitions that a partition is made from."""
        return super()._get_partition_dependencies(key=key)

    def suspects(self, key: AssetKeyPartitionKey) -> Sequence[AssetKeyPartitionKey]:
        """Those of the dependencies that are looked at for a reason why the partition is stale."""
        return self.dependencies(key)

    def provenance(self, key: AssetKeyPartitionKey) -> DataProvenance | None:
        """What a partition was made from; None for one that was not made, or does not tell."""
        return self._get_current_data_provenance(key=key)

    def latest_record(self, key: AssetKeyPartitionKey) -> EventLogRecord | None:
        """The latest event of a partition that bears a data version."""
        return super()._get_latest_data_version_record(key=key)

    def is_updated(self, provenance: DataProvenance, dependency: AssetKeyPartitionKey) -> bool:
        """Whether a dependency has another version than the one that something of this provenance was made from."""
        return super()._is_dep_updated(provenance, dependency)

    def differ(self, one: DataVersion | None, other: DataVersion | None) -> bool:
        """Whether two data versions say that something has changed."""
        return self._data_versions_differ(one, other)

    def counts(self, key: dg.AssetKey, parent: dg.AssetKey, has_changed: bool) -> bool:
        """Whether an asset is stale where a parent of it has changed, or else where it is one now or is none any more.

        Where it only waits for it, nothing of the parent makes it stale.
        """
        return True

    def _get_stale_causes_materialized(self, key: AssetKeyPartitionKey) -> Iterator[StaleCause]:
        for cause in super()._get_stale_causes_materialized(key):
            has_changed = cause.category != StaleCauseCategory.DEPENDENCIES
            if cause.dependency is None or self.counts(key.asset_key, cause.dependency.asset_key, has_changed):
                yield cause

    def _get_partition_dependencies(self, *, key: AssetKeyPartitionKey) -> Sequence[AssetKeyPartitionKey]:
        return self.suspects(key)

    def _get_latest_data_version_record(self, key: AssetKeyPartitionKey) -> EventLogRecord | None:
        return self.latest_record(key)

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        return self.is_updated(provenance, dep_key)


def _failures_cursor() -> str:
    """The name under which the daemon remembers up to which failure of a run it has read."""
    from dagster._daemon.auto_run_reexecution.event_log_consumer import _create_cursor_key  # loads much of the daemon

    return _create_cursor_key(DagsterEventType.RUN_FAILURE)


def read_until(instance: dg.DagsterInstance) -> int | None:
    """The number of the event up to which the daemon has read failures of runs; None where it has read none."""
    key = _failures_cursor()
    found = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
    return None if found is None else int(found)


def failures_after(instance: dg.DagsterInstance, event: int) -> dict[int, str]:
    """The failures of runs after an event: the ids of the runs, by the number of the failure's event."""
    found = instance.event_log_storage.get_logs_for_all_runs_by_log_id(event, DagsterEventType.RUN_FAILURE)
    return {number: entry.run_id for number, entry in found.items()}


def read_again_after(instance: dg.DagsterInstance, event: int) -> None:
    """Has the daemon read all failures of runs after an event, whether it has read them or not."""
    instance.daemon_cursor_storage.set_cursor_values({_failures_cursor(): str(event)})


def instance_of(launcher: RunLauncher) -> dg.DagsterInstance:
    """The instance that a run launcher launches for."""
    return launcher._instance


def exchange_step_handler(executor: dg.Executor, make: Callable[[StepHandler], StepHandler]) -> None:
    """Puts another step handler, made from its own, into an executor that delegates steps."""
    assert isinstance(executor, StepDelegatingExecutor)
    executor._step_handler = make(executor._step_handler)
