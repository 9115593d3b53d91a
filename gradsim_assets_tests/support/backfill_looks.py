"""A backfill as the daemon works on it, look by look, in this process."""

import logging
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import TemporalContext
from dagster._core.definitions.assets.graph.remote_asset_graph import RemoteWorkspaceAssetGraph
from dagster._core.execution.asset_backfill import AssetBackfillData, execute_asset_backfill_iteration_inner
from dagster._core.remote_representation.external import RemoteRepository
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.remote_representation.handle import RepositoryHandle

from gradsim_assets.orchestration.dagster_internals import AssetGraphSubset, AssetGraphView


def as_the_daemon_sees_it(repository: dg.RepositoryDefinition) -> RemoteWorkspaceAssetGraph:
    """The asset graph of a code location with this repository."""
    remote = RemoteRepository(RepositorySnap.from_def(repository), RepositoryHandle.for_test(), True)
    location = SimpleNamespace(name="gradsim", get_repositories=lambda: {remote.name: remote})
    workspace = SimpleNamespace(code_location_entries={"gradsim": SimpleNamespace(code_location=location)})
    return RemoteWorkspaceAssetGraph.build(workspace)  # type: ignore[arg-type]


class BackfillLooks:
    """A backfill of what is wanted. Whoever holds it runs what waits, and looks again."""

    def __init__(
        self, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, wanted: AssetGraphSubset, name: str
    ) -> None:
        self.instance, self.name = instance, name
        self.remote = as_the_daemon_sees_it(repository)
        self.data = AssetBackfillData.empty(wanted, time.time(), instance)
        self.waiting: list[dg.RunRequest] = []

    def look(self) -> list[dg.RunRequest]:
        """One look of the daemon; what it asks for waits."""
        last = self.instance.event_log_storage.get_maximum_record_id()
        now = TemporalContext(effective_dt=datetime.now(UTC), last_event_id=last)
        view = AssetGraphView(temporal_context=now, instance=self.instance, asset_graph=self.remote)
        result = execute_asset_backfill_iteration_inner(
            self.name, self.data, view, time.time(), logging.getLogger(), None
        )
        self.data = result.backfill_data.with_run_requests_submitted(result.run_requests, view)
        self.waiting += result.run_requests
        return list(result.run_requests)
