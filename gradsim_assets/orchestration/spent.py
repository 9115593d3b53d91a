"""What was computed so far, and what it took: out of the runs that an instance remembers, failed and repeated ones too."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import dagster as dg

from gradsim_assets.core.partition_keys import is_slug, model_id_of
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph, RunStepKeyStatsSnapshot, StepEventStatus
from gradsim_assets.orchestration.partitions import place_of

#: Run tags that say on what a step of the run has put a model: this and the step's name. "cpu", or the name of a GPU.
DEVICE_TAG = "gradsim/device."

#: Run tag with the id of the model that a run is about.
MODEL_TAG = "gradsim/model"

CPU = "cpu"

#: Runs that are asked for at a time.
_PAGE = 500


@dataclass
class Spent:
    """What one step took, over all runs of a model; the assets that it makes are `assets`."""

    #: None for what is the same for all models.
    model: str | None
    stage: str
    step: str
    assets: set[str] = field(default_factory=set)
    #: How often it was begun, and how often that failed.
    times: int = 0
    failures: int = 0
    #: Wall clock from the beginning of the step to its end; of the failures alone.
    seconds: float = 0.0
    failed_seconds: float = 0.0
    #: Seconds by the name of the GPU that the step had to itself.
    gpus: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: Times that had no end, since the process was killed: how long they took is not known.
    unknown: int = 0

    @property
    def gpu_hours(self) -> float:
        """Hours on GPUs of any kind."""
        return sum(self.gpus.values()) / 3600


def spent(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> list[Spent]:
    """What every step took, for every model: what is the same for all first, then by model, in the order of the first runs.

    A step that was tried several times in a run counts from its first beginning to its last end. Runs whose logs were deleted
    are not known any more.
    """
    found: dict[tuple[str | None, str, str], Spent] = {}
    for run in _runs(instance):
        made = _planned(instance, run.run_id)
        model = _model(run, made, graph)
        for step in instance.get_run_step_stats(run.run_id):
            key = (model, run.job_name, step.step_key)
            one = found.setdefault(key, Spent(*key))
            one.assets |= {name.to_user_string() for name in made.get(step.step_key, ())}
            _add(one, step, run.tags.get(f"{DEVICE_TAG}{step.step_key}", CPU))
    return sorted(found.values(), key=lambda one: one.model or "")


def _runs(instance: dg.DagsterInstance) -> Iterator[dg.DagsterRun]:
    """All runs that have begun, oldest first."""
    cursor: str | None = None
    pages: list[dg.DagsterRun] = []
    while page := list(instance.get_runs(limit=_PAGE, cursor=cursor)):
        pages += page
        cursor = page[-1].run_id
    yield from reversed(pages)


def _planned(instance: dg.DagsterInstance, run_id: str) -> dict[str, set[dg.AssetKey]]:
    """The assets that a run was to make, by step."""
    planned: dict[str, set[dg.AssetKey]] = defaultdict(set)
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED):
        event = entry.dagster_event
        if event is not None and event.step_key and event.asset_key:
            planned[event.step_key].add(event.asset_key)
    return planned


def _model(run: dg.DagsterRun, made: dict[str, set[dg.AssetKey]], graph: BaseAssetGraph) -> str | None:
    """The model that a run was about; None where that is none, or its assets are not there any more."""
    partition = run.tags.get("dagster/partition")
    for key in (key for keys in made.values() for key in keys):
        if partition and graph.has(key) and (slug := place_of(partition, graph.get(key).partitions_def).model):
            return model_id_of(slug) if is_slug(slug) else slug
    return None if made else run.tags.get(MODEL_TAG)  # a run of no asset, such as one that traces texts


def _add(one: Spent, step: RunStepKeyStatsSnapshot, device: str) -> None:
    one.times += 1
    if step.start_time is None or step.end_time is None:
        one.unknown += 1
        return
    seconds = step.end_time - step.start_time
    one.seconds += seconds
    if step.status == StepEventStatus.FAILURE:
        one.failures += 1
        one.failed_seconds += seconds
    if device != CPU:
        one.gpus[device] += seconds
