"""What watches the models: an observation sensor, and schedules that rerun what is out of date."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.defs.models.hf_model import HF_MODEL, observation, observed_versions
from gradsim_assets.defs.reruns import NEEDED, STALE, rerun_job
from gradsim_assets.orchestration.model_registry import put_right
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.model_hub import ModelHub

#: Longest pause before a model whose revision could not be had is asked for again.
LONGEST_PAUSE_SECONDS = 6 * 3600


def build(settings: Settings) -> tuple[list[dg.SensorDefinition], list[dg.JobDefinition], list[dg.ScheduleDefinition]]:
    """Sensors, jobs and schedules, all stopped until a user switches them on."""
    automation = settings.automation
    stale, needed = rerun_job(STALE, missing=False), rerun_job(NEEDED, missing=True)
    cost = "COST: what it launches runs on your GPUs; `gradsim plan MODEL` estimates a model's pass."
    schedules = [
        dg.ScheduleDefinition(
            name="reconciliation",
            job=stale,
            cron_schedule=automation.reconcile_cron,
            description=f"Backfills what is stale, so that nothing that a missed tick left behind stays so. {cost}",
        ),
        dg.ScheduleDefinition(
            name="regular_rerun",
            job=needed,
            cron_schedule=automation.rerun_cron,
            description=f"Backfills everything that is missing or stale, for all models and shards. {cost}",
        ),
    ]
    return [_observe(settings)], [stale, needed], schedules


def _observe(settings: Settings) -> dg.SensorDefinition:
    configured = tuple(model.id for model in settings.models)

    @dg.sensor(
        name="observe_models",
        minimum_interval_seconds=settings.automation.observe_seconds,
        default_status=dg.DefaultSensorStatus.STOPPED,
        asset_selection=dg.AssetSelection.assets(HF_MODEL),
        description=(
            "Asks which revision every model stands at, and registers the models of gradsim.toml. Costs no GPU time: tables "
            "of another revision then show as stale, and whether they are computed again is up to `rerun_on_model_revision`."
        ),
    )
    def observe_models(context: dg.SensorEvaluationContext, hub: ModelHub) -> dg.SensorResult | dg.SkipReason:
        healed = put_right(context.instance, hub.check)
        slugs = context.instance.get_dynamic_partitions(str(MODELS.name))
        new = [slug for slug in map(model_slug, configured) if slug not in slugs]
        found = observations(hub, [*slugs, *new], observed_versions(context.instance), context.cursor, time.time())
        for sentence in (*healed, *found.problems):
            context.log.warning(sentence)
        added = [slug for slug in new if slug not in found.failures]  # what cannot be resolved is not registered
        return dg.SensorResult(
            dynamic_partitions_requests=[MODELS.build_add_request(added)] if added else [],
            asset_events=[observation(slug, version) for slug, version in found.changed.items()],
            cursor=found.cursor,
        )

    return observe_models


@dataclass
class Observations:
    """What one tick found: versions that changed, problems in words, and the models that are left alone for a while."""

    #: By slug: (failures in a row, time before which it is not asked for again).
    failures: dict[str, tuple[int, float]]
    changed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def cursor(self) -> str:
        """What the next tick must know, as JSON."""
        return json.dumps({"failures": self.failures}, sort_keys=True)


def observations(
    hub: ModelHub, slugs: Sequence[str], observed: Mapping[str, str], cursor: str | None, now: float
) -> Observations:
    """Resolves every model and finds those that do not stand at the version that was observed last.

    One that cannot be resolved is left alone for a minute, then two, four, ... up to six hours.
    """
    failures = json.loads(cursor).get("failures", {}) if cursor else {}
    found = Observations({slug: (count, until) for slug, (count, until) in failures.items() if slug in slugs})
    for slug in slugs:
        count, until = found.failures.get(slug, (0, 0.0))
        if now < until:
            continue
        try:
            # Without fallback: that the hub cannot be reached is no news of the model.
            version = hub.version_now(model_id_of(slug), fallback=False)
        except (InputError, ServiceError, OSError) as error:
            found.failures[slug] = (count + 1, now + min(60.0 * 2**count, LONGEST_PAUSE_SECONDS))
            if not count:  # said once, not with every tick: offline is a state, not an event
                found.problems.append(f"{slug}: {error}")
            continue
        found.failures.pop(slug, None)
        if observed.get(slug) != version:
            found.changed[slug] = version
    return found
