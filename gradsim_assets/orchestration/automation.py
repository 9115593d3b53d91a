"""Reruns when a model changes: what is out of date, and when it is computed again.

Everything here is switched off until a user switches it on: GPU time costs money.
"""

from collections.abc import Callable

import dagster as dg

from gradsim_assets.core.tables.schemas import (
    GRADIENT_SIMILARITY,
    MODEL_COMPARISON,
    MODEL_GENERATED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    RETRIEVAL,
    SETTINGS,
)
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import ON_REQUEST, READS_OTHER_MODELS, WAITS_FOR, asset_key, waits_only
from gradsim_assets.orchestration.dagster_internals import AssetGraphView, AssetKeyPartitionKey, StaleStatus
from gradsim_assets.orchestration.stale_status import StatusResolver

#: Groups whose assets are computed again when a model changes; the datasets do not depend on models.
GROUPS = (groups.CURVATURE, groups.GRADIENTS, groups.INDEX, groups.SIMILARITY, groups.ANALYSIS)
ANSWERS = asset_key(MODEL_GENERATED.name)

#: What imported results have too, although nobody wrote their variants here.
_WITHOUT_TEXTS = (*(asset_key(RETRIEVAL.name, setting) for setting in SETTINGS), asset_key("report"))


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


class Early(dg.AutomationCondition[dg.AssetKey]):
    """True for partitions that are made from what is to be computed first.

    The built-in conditions look at the next inputs alone: a report of an edited text would be asked for together with the
    gradients of it, be made from those of before, and then twice more as analyses follow.
    """

    @property
    def name(self) -> str:
        return "early"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return _where(context, StatusResolver.is_early, asks_for_few=False)  # of all that a partition follows from


class LacksItsOwn(dg.AutomationCondition[dg.AssetKey]):
    """True for partitions whose own model lacks what they are made from; the controls of a model may lack it."""

    @property
    def name(self) -> str:
        return "lacks_its_own"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        return _where(context, StatusResolver.lacks_its_own)


def _where(
    context: dg.AutomationContext,
    holds: Callable[[StatusResolver, AssetKeyPartitionKey], bool],
    asks_for_few: bool = True,
) -> dg.AutomationResult:
    """The candidates for which something holds."""
    view: AssetGraphView = context.asset_graph_view
    candidates = context.candidate_subset.expensively_compute_asset_partitions()
    resolver = StatusResolver(view.instance, view.asset_graph, len(candidates) if asks_for_few else None)
    found = {candidate for candidate in candidates if holds(resolver, candidate)}
    return dg.AutomationResult(context, view.get_asset_subset_from_asset_partitions(context.key, found))


def on_model_revision(key: dg.AssetKey) -> dg.AutomationCondition:
    """Computes a partition again once something that it was made from has changed and nothing is on its way any more.

    What follows from it and can be computed in the same run is computed with it, as a planned run has it: the gradients of answers
    come out of one pass with those of paraphrases, although only the answers tell that they are other ones.

    A change is remembered until the partition is up to date again, so that one that arrives during a run is not lost;
    a partition whose last run failed waits for a change since then or for a user, or it would fail every half minute.
    """
    condition = dg.AutomationCondition
    changed = condition.any_deps_match(condition.data_version_changed())
    up_to_date = condition.newly_updated() & ~OutOfDate()
    ready: dg.AutomationCondition = ~condition.in_progress() & ~condition.any_deps_in_progress()
    if key in READS_OTHER_MODELS:
        ready &= ~LacksItsOwn() & ~Early()
    elif key != asset_key(MODEL_COMPARISON.name):  # which leaves out the models that have no results yet
        optional = dg.AssetSelection.assets(
            *(asset_key(t.name, s) for t in (PROJECTED_SIMILARITY, PRECONDITIONED_PRODUCTS) for s in SETTINGS),
            *(ON_REQUEST if key == asset_key("report") else ()),
            *(
                asset_key(setting)
                for setting in SETTINGS
                if key in _WITHOUT_TEXTS or waits_only(key, asset_key(setting))
            ),
        )
        ready &= ~condition.any_deps_missing().ignore(optional) & ~Early()
    wanted = (
        changed.since(up_to_date | condition.initial_evaluation())
        | condition.newly_missing().since(up_to_date)
        | condition.code_version_changed().since(up_to_date)
    )
    healthy = ~(condition.execution_failed() & ~ChangedSincePlanned())
    not_followed = [*WAITS_FOR.get(key, ())]
    if key in READS_OTHER_MODELS:  # what is to be computed for any model is not for this one
        not_followed += [asset_key(GRADIENT_SIMILARITY.name, setting) for setting in SETTINGS]
    follows = condition.any_deps_match(condition.will_be_requested()).ignore(dg.AssetSelection.assets(*not_followed))
    # What is wanted comes first: as a rule nothing is, and the rest then has no partition to look at.
    return (((wanted & OutOfDate()) | follows) & healthy & ready).with_label("on_model_revision")


def automated(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with the condition where its group follows the models."""
    if spec.group_name in GROUPS or spec.key == ANSWERS:
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
            "estimates it), and so does every model that is added while this is on. Needs `observe_sources` switched on to "
            "notice revisions. A change of the code that decides values reruns all models; of the gradient engine's, a change of "
            "its declared numerics version."
        ),
    )
