"""Reruns when a model changes: what is out of date, when it is computed again, and backfills through the instance.

Everything here is switched off until a user switches it on: GPU time costs money.
"""

import time
from collections.abc import Callable, Collection, Iterable

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id

from gradsim_assets.io.parquet import place_of
from gradsim_assets.io.tables import Partition
from gradsim_assets.schemas import MODEL_COMPARISON, PROJECTED_SIMILARITY, SETTINGS
from gradsim_assets.status import StatusResolver

#: Groups whose assets are computed again when a model changes; the datasets do not depend on models.
GROUPS = ("gradients", "similarity", "analysis")
ANSWERS = "model_generated"


class OutOfDate(dg.AutomationCondition[dg.AssetKey]):
    """True for partitions that Dagster's own stale status calls stale or missing.

    The built-in conditions see events, not states: an answer table that is rewritten in the very run that also
    computes the gradients from it would ask for these gradients a second time.
    """

    @property
    def name(self) -> str:
        return "out_of_date"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return _where(context, lambda resolver, key: resolver.get_status(*key) != StaleStatus.FRESH)


class ChangedSincePlanned(dg.AutomationCondition[dg.AssetKey]):
    """True for partitions of whose inputs one has changed since their last run was planned.

    The built-in conditions forget when a change came: one that arrives while a run of the old revision is failing is over
    when the failure shows.
    """

    @property
    def name(self) -> str:
        return "changed_since_planned"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return _where(context, StatusResolver.changed_since_planned)


def _where(
    context: dg.AutomationContext, holds: Callable[[StatusResolver, AssetKeyPartitionKey], bool]
) -> dg.AutomationResult:
    """The candidates for which something holds."""
    view: AssetGraphView = context.asset_graph_view
    candidates = context.candidate_subset.expensively_compute_asset_partitions()
    resolver = StatusResolver(view.instance, view.asset_graph, len(candidates))
    found = {candidate for candidate in candidates if holds(resolver, candidate)}
    return dg.AutomationResult(context, view.get_asset_subset_from_asset_partitions(context.key, found))


def on_model_revision(key: dg.AssetKey) -> dg.AutomationCondition:
    """Computes a partition again once something that it was made from has changed and nothing is on its way any more.

    A change is remembered until the partition is up to date again, so that one that arrives during a run is not lost;
    a partition whose last run failed waits for a change since then or for a user, or it would fail every half minute.
    """
    condition = dg.AutomationCondition
    changed = condition.any_deps_match(condition.data_version_changed())
    up_to_date = condition.newly_updated() & ~OutOfDate()
    ready = ~condition.in_progress() & ~condition.any_deps_in_progress()
    if key.path[0] != MODEL_COMPARISON.name:  # which leaves out the models that have no results yet
        optional = dg.AssetSelection.assets(*([PROJECTED_SIMILARITY.name, setting] for setting in SETTINGS))
        ready &= ~condition.any_deps_missing().ignore(optional)
    wanted = (
        changed.since(up_to_date | condition.initial_evaluation())
        | condition.newly_missing().since(up_to_date)
        | condition.code_version_changed().since(up_to_date)
    )
    healthy = ~(condition.execution_failed() & ~ChangedSincePlanned())
    # What is wanted comes first: as a rule nothing is, and the rest then has no partition to look at.
    return (wanted & ready & healthy & OutOfDate()).with_label("on_model_revision")


def automated(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with the condition where its group follows the models."""
    if spec.group_name in GROUPS or spec.key.path == [ANSWERS]:
        return spec.replace_attributes(automation_condition=on_model_revision(spec.key))
    return spec


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions, stopped until somebody switches it on."""
    return dg.AutomationConditionSensorDefinition(
        "rerun_on_model_revision",
        target=dg.AssetSelection.groups(*GROUPS) | dg.AssetSelection.assets(ANSWERS),
        use_user_code_server=True,  # for our own condition
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
        run_tags={"gradsim/launched_by": "automation", "dagster/priority": "-1"},
        description=(
            "Computes again what a new revision of a model leaves stale, and what a newly added model lacks. COST: every "
            "new revision costs one whole gradient pass of that model over all shards on your GPUs (`gradsim plan MODEL` "
            "estimates it), and so does every model that is added while this is on. Needs `observe_models` switched on to "
            "notice revisions. A change of the code that decides values reruns all models."
        ),
    )


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
