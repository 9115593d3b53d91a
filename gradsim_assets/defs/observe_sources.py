"""What watches the models and the sources of samples: an observation sensor, and schedules that rerun what is out of date."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.paraphrased import OPENAI
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.defs.curvature.curvature import ADAM
from gradsim_assets.defs.curvature.optimizer_states import OPTIMIZER_STATES, state_sighting
from gradsim_assets.defs.datasets.originals_source import ORIGINALS_SOURCE
from gradsim_assets.defs.datasets.paraphrases_source import PARAPHRASES_SOURCE, paraphrase_versions
from gradsim_assets.defs.models.hf_model import HF_MODEL, sighting
from gradsim_assets.defs.reruns import NEEDED, STALE, rerun_job
from gradsim_assets.orchestration.lost_retries import ask_again
from gradsim_assets.orchestration.model_registry import put_right
from gradsim_assets.orchestration.observations import (
    Sighting,
    filling,
    observation,
    observed_versions,
    shown_marks,
    source_sighting,
)
from gradsim_assets.orchestration.partitions import MODELS, Partitions
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets.resources.table_store import TableStore

#: Longest pause before what did not tell its version is asked for again.
LONGEST_PAUSE_SECONDS = 6 * 3600


def build(
    settings: Settings, partitions: Partitions
) -> tuple[list[dg.SensorDefinition], list[dg.JobDefinition], list[dg.ScheduleDefinition]]:
    """Sensors, jobs and schedules, all that launch or ask anything stopped until a user switches them on."""
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
    return [_observe(settings, partitions), _lost_retries()], [stale, needed], schedules


def _lost_retries() -> dg.SensorDefinition:
    """Switched on from the start: it costs nothing and launches nothing that Dagster has not said it would."""

    @dg.sensor(
        name="lost_retries",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description=(
            "Reminds the daemon of runs that died and that it said it would retry, where no retry followed for a minute: it misses a "
            "failure that it reads in the moment in which the run is marked as failed, and backfills would wait for ever. COST: none."
        ),
    )
    def lost_retries(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        asked = ask_again(context.instance)
        return dg.SkipReason(f"asked for the retries of {', '.join(asked)}" if asked else "no retry is missing")

    return lost_retries


def _observe(settings: Settings, partitions: Partitions) -> dg.SensorDefinition:
    configured = tuple(settings.configured)

    @dg.sensor(
        name="observe_sources",
        minimum_interval_seconds=settings.automation.observe_seconds,
        default_status=dg.DefaultSensorStatus.STOPPED,
        asset_selection=dg.AssetSelection.assets(
            HF_MODEL,
            ORIGINALS_SOURCE,
            *([] if settings.data.paraphrases == OPENAI else [PARAPHRASES_SOURCE]),
            *([OPTIMIZER_STATES] if watches_optimizers(settings) else []),
        ),
        description=(
            "Asks which revision every model stands at and what the files of samples hold, and registers the models of "
            "gradsim.toml. Costs no GPU time: tables of another revision or content then show as stale. Whether those of a "
            "model are computed again is up to `rerun_on_model_revision`, and of the datasets up to `reconciliation`."
        ),
    )
    def observe_sources(
        context: dg.SensorEvaluationContext, hub: ModelHub, sources: SampleSources, store: TableStore
    ) -> dg.SensorResult | dg.SkipReason:
        healed = put_right(context.instance, hub.check)
        slugs = context.instance.get_dynamic_partitions(str(MODELS.name))
        found_checkpoints, unfound = checkpoints_now(hub)
        asked = map(model_slug, (*configured, *found_checkpoints))
        new = [slug for slug in asked if slug not in slugs]
        watched = [*models(hub, [*slugs, *new]), *samples(sources, store, partitions.shard_count)]
        if watches_optimizers(settings):
            watched += optimizer_states(hub, [*slugs, *new])
        found = observations(watched, last_observed(context.instance, watched), context.cursor, time.time())
        for sentence in (*healed, *unfound, *found.problems):
            context.log.warning(sentence)
        added = [slug for slug in new if slug not in found.failures]  # what cannot be resolved is not registered
        return dg.SensorResult(
            dynamic_partitions_requests=[MODELS.build_add_request(added)] if added else [],
            asset_events=_events(context.instance, found),
            cursor=found.cursor,
        )

    return observe_sources


def checkpoints_now(hub: ModelHub) -> tuple[list[str], list[str]]:
    """Ids of the checkpoints that all trajectories have now, and a sentence for each trajectory that does not tell."""
    found: list[str] = []
    problems: list[str] = []
    for run in hub.trajectories:
        try:
            found += hub.checkpoints(run)
        except (InputError, ServiceError) as error:
            problems.append(f"{run}: {error}")
    return found, problems


#: A source, or one of its partitions.
Place = tuple[dg.AssetKey, str | None]


@dataclass(frozen=True)
class Watched:
    """Something that is looked at as a whole; `name` stands for it in sentences and in the cursor."""

    name: str
    key: dg.AssetKey
    #: By partition (None where there are none); raises InputError, ServiceError or OSError where they cannot be had.
    look: Callable[[], dict[str | None, Sighting]]


def models(hub: ModelHub, slugs: Iterable[str]) -> list[Watched]:
    """Models by their partition keys. Without fallback: that the hub cannot be reached is no news of the model."""
    return [_model(hub, slug) for slug in slugs]


def _model(hub: ModelHub, slug: str) -> Watched:
    def look() -> dict[str | None, Sighting]:
        model_id = model_id_of(slug)
        return {slug: sighting(hub, model_id, hub.resolve(model_id, fallback=False))}

    return Watched(slug, HF_MODEL, look)


def watches_optimizers(settings: Settings) -> bool:
    """Whether anything is made of the states of optimizers."""
    return ADAM in settings.preconditioners.methods


def optimizer_states(hub: ModelHub, slugs: Iterable[str]) -> list[Watched]:
    """The optimizer states of models by their partition keys."""
    return [
        Watched(f"optimizer state of {slug}", OPTIMIZER_STATES, partial(_look_at_state, hub, slug)) for slug in slugs
    ]


def _look_at_state(hub: ModelHub, slug: str) -> dict[str | None, Sighting]:
    return {slug: state_sighting(hub, slug)}


def samples(sources: SampleSources, store: TableStore, shards: int) -> list[Watched]:
    """The sources of originals and of paraphrases; a chat model is none."""
    originals = Watched(
        "data.originals",
        ORIGINALS_SOURCE,
        lambda: {None: source_sighting(sources.originals, sources.originals_version())},
    )
    if sources.paraphrases == OPENAI:
        return [originals]

    def look() -> dict[str | None, Sighting]:
        versions = paraphrase_versions(sources, store, shards)
        return {shard: source_sighting(sources.paraphrases, version) for shard, version in versions.items()}

    return [originals, Watched("data.paraphrases", PARAPHRASES_SOURCE, look)]


def last_observed(instance: dg.DagsterInstance, watched: Iterable[Watched]) -> dict[Place, str]:
    """The versions at which all that is watched was observed last, by anybody."""
    keys = {one.key for one in watched}
    return {(key, part): version for key in keys for part, version in observed_versions(instance, key).items()}


@dataclass
class Observations:
    """What one look found: all that was seen, versions that changed, problems in words, what is left alone for a while."""

    #: By name: (failures in a row, time before which it is not asked for again).
    failures: dict[str, tuple[int, float]]
    seen: dict[Place, Sighting] = field(default_factory=dict)
    changed: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def cursor(self) -> str:
        """What the next look must know, as JSON."""
        return json.dumps({"failures": self.failures}, sort_keys=True)


def observations(
    watched: Sequence[Watched], observed: Mapping[Place, str], cursor: str | None, now: float
) -> Observations:
    """Asks for the versions of all that is watched and finds those that were not observed last.

    What does not tell its version is left alone for a minute, then two, four, ... up to six hours.
    """
    failures = json.loads(cursor).get("failures", {}) if cursor else {}
    names = {one.name for one in watched}
    found = Observations({name: (count, until) for name, (count, until) in failures.items() if name in names})
    for one in watched:
        count, until = found.failures.get(one.name, (0, 0.0))
        if now < until:
            continue
        try:
            seen = {(one.key, part): sighted for part, sighted in one.look().items()}
        except (InputError, ServiceError, OSError) as error:
            found.failures[one.name] = (count + 1, now + min(60.0 * 2**count, LONGEST_PAUSE_SECONDS))
            if not count:  # said once, not with every tick: offline is a state, not an event
                found.problems.append(f"{one.name}: {error}")
            continue
        found.failures.pop(one.name, None)
        found.seen |= seen
        found.changed |= {place: s.version for place, s in seen.items() if observed.get(place) != s.version}
    return found


def _events(
    instance: dg.DagsterInstance, found: Observations
) -> list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """What changed, as observations, and partitions that the UI does not show as they are."""
    shown = {key: shown_marks(instance, key) for key in {key for key, _ in found.seen}}
    events: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
    for (key, part), seen in found.seen.items():
        changed = (key, part) in found.changed
        unshown = part if part is not None and shown[key].get(part) != seen.mark else None
        metadata = seen.metadata() if changed or unshown else {}
        events += [observation(key, seen.version, part, metadata)] if changed else []
        events += [filling(key, unshown, seen, metadata)] if unshown else []
    return events
