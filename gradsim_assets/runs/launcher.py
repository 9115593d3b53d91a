"""Runs from the command line: the same runs, on the same instance, that the UI and the daemon launch."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import dagster as dg

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import ServiceError
from gradsim_assets.core.home import Home, gradsim_home
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.defs.models.hf_model import HF_MODEL, sighting
from gradsim_assets.defs.observe_sources import optimizer_states, samples, watches_optimizers
from gradsim_assets.defs.progress import draw_progress_on_terminal
from gradsim_assets.defs.stages import Stage
from gradsim_assets.orchestration.dagster_internals import ReconstructableRepository, execute_job
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.model_registry import register, remove
from gradsim_assets.orchestration.observations import observed_versions, record
from gradsim_assets.orchestration.partitions import place_of, registered
from gradsim_assets.orchestration.planner import Target, targets
from gradsim_assets.orchestration.standings import (
    DONE,
    STATES,
    Standing,
    is_at_work,
    standings,
    with_what_follows,
)
from gradsim_assets.resources.by_name import resources
from gradsim_assets.runs.environment import MODULE
from gradsim_assets.runs.local_run_launcher import PROCESS_TAG
from gradsim_assets.runs.others_at_work import COMMAND_TAGS, are_taken, is_worked_on
from gradsim_assets.runs.process_identity import ProcessIdentity
from gradsim_assets.runs.turns import in_turn

#: The terminal shows progress bars and outcomes; the log of a run is in the UI.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

#: A killed command is for its user to give again; the daemon retries what it launched itself.
_TAGS = {"dagster/max_retries": "0", **COMMAND_TAGS}


@dataclass(frozen=True)
class RunOutcome:
    """One run of a stage: its job, partition and id, and what went wrong (None: nothing)."""

    job: str
    partition: str | None
    run_id: str
    seconds: float
    error: str | None
    warnings: tuple[str, ...] = ()


class Launcher:
    """Launches the stages of an experiment on a Dagster instance, one partition per run, in this process."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        draw_progress_on_terminal()
        self._repository = ReconstructableRepository.for_module(MODULE, "defs", working_directory=os.getcwd())

    @property
    def repository(self) -> dg.RepositoryDefinition:
        """The code location's definitions."""
        return self._repository.get_definition()

    def files(self) -> LostFiles:
        """Finds lost files of this home, as they are now."""
        settings = load_settings()
        return LostFiles(Tables(settings.tables), Home(settings.home))

    def models(self) -> list[str]:
        """Ids of the registered models."""
        return [model_id_of(slug) for slug in registered(self.instance)]

    def standings(self) -> list[Standing]:
        """How every partition of every table stands now; what is made from something stale is stale, too."""
        graph = self.repository.asset_graph
        return with_what_follows(standings(self.instance, graph, self.files()), graph)

    def states(self) -> dict[str, str]:
        """How the tables of every registered model stand, in words."""
        counts: dict[str, Counter[str]] = {model: Counter() for model in self.models()}
        for one in self.standings():
            # A model that was added or removed meanwhile is told of next time.
            if one.place.model is not None and (model := model_id_of(one.place.model)) in counts:
                counts[model][one.shown] += 1
        others = [state for state in STATES if state != DONE]
        return {
            model: ", ".join(f"{of[state]} {state}" for state in others if of[state]) or "up to date"
            for model, of in counts.items()
        }

    def is_at_work(self) -> bool:
        """As `orchestration.standings.is_at_work`."""
        return is_at_work(self.instance)

    def versions(self) -> dict[str, str]:
        """The version at which every model was observed last, by the model's id."""
        seen = observed_versions(self.instance, HF_MODEL)
        return {model: seen[slug] for model in self.models() if (slug := model_slug(model)) in seen}

    def add_model(self, model_id: str) -> str:
        """As `model_registry.register`."""
        return register(self.instance, model_id)

    def remove_model(self, model_id: str) -> None:
        """As `model_registry.remove`."""
        remove(self.instance, model_id)

    def observe(self, model_id: str, settings: Settings) -> None:
        """Records at which version a model and the sources of samples stand, so that tables of other ones show as stale.

        Raises:
            InputError: the model is none, or a source cannot be read.
            ServiceError: the hub does not tell the revision of a model, and none was downloaded.
        """
        found = resources(settings)
        self.observe_model(model_id, settings)
        watched = samples(found.sources, found.store, settings.data.shards)
        if watches_optimizers(settings):
            watched += optimizer_states(found.hub, [model_slug(model_id)])
        for one in watched:
            try:
                seen = one.look()
            except ServiceError:  # offline: it stands where it stood
                continue
            for partition, sighted in seen.items():
                record(self.instance, one.key, partition, sighted)

    def observe_model(self, model_id: str, settings: Settings) -> Mapping[str, Any]:
        """Records at which version a model stands, and returns what the UI shows of it; raises as `observe`."""
        hub = resources(settings).hub
        seen = sighting(hub, model_id, hub.resolve(model_id))
        record(self.instance, HF_MODEL, model_slug(model_id), seen)
        return seen.metadata()

    def sweep(self, model_id: str) -> int:
        """Removes what other numbers of shards, subsets or slices have left of a model, and of tables without models; how many
        files."""
        settings = load_settings()
        store, slug = resources(settings).store, model_slug(model_id)
        return sum(len(store.tables.sweep(path, store.partition_keys, slug)) for path in PATHS.values())

    def work(
        self,
        stage: Stage,
        model_id: str | None = None,
        force: bool = False,
        within: Partition | None = None,
        requested: bool = False,
    ) -> dict[str | None, list[dg.AssetKey]]:
        """Per partition of a stage (of one model, of one shard, subset or slice) the assets to materialise: those that are missing or stale and
        what follows from them within the stage; all with `force`. `requested` as `targets` has it."""
        by_partition: dict[str | None, list[dg.AssetKey]] = {}
        for target in self.targets([stage], model_id, force=force, within=within, requested=requested):
            by_partition.setdefault(target.partition_key, []).append(target.asset_key)
        return by_partition

    def turns(
        self, stage: Stage, model_id: str, force: bool = False, requested: bool = False
    ) -> Iterator[tuple[str | None, list[dg.AssetKey]]]:
        """As `work`, one partition after the other, each while no other process of this home works on it.

        What others do meanwhile is waited for and not done again, so that an item may have nothing left to do. With `force`
        everything is done, whatever others did.
        """
        work, graph = self.work(stage, model_id, force, requested=requested), self.repository.asset_graph
        pools = {pool for assets in work.values() for key in assets for pool in graph.get(key).pools or ()}

        def busy(partition: str | None) -> bool:
            assets = set(work[partition])
            return is_worked_on(self.instance, stage.job, partition, assets) or are_taken(self.instance, pools)

        def wait() -> None:
            click.echo(f"another command or the daemon is at work on {stage.job}; waiting for what it computes")

        for partition in in_turn(gradsim_home().locks, stage.job, work, busy, wait):
            if force:
                yield partition, work[partition]
            else:
                definition = graph.get(work[partition][0]).partitions_def
                place = place_of(partition, definition)
                left = self.work(stage, model_id, within=place, requested=requested)
                yield partition, left.get(partition, [])

    def targets(
        self,
        stages: Iterable[Stage],
        model_id: str | None = None,
        missing: bool = True,
        force: bool = False,
        within: Partition | None = None,
        requested: bool = False,
    ) -> list[Target]:
        """As `orchestration.planner.targets`, of some stages (and one model, and the shard, subset or slice of one place)."""
        graph = self.repository.asset_graph
        keys = {key for stage in stages for key in stage.selection.resolve(graph)}
        models = [model_slug(model_id)] if model_id else None
        place = within or Partition()
        return targets(
            self.instance,
            graph,
            self.files(),
            models=models,
            shards=[place.shard] if place.shard else None,
            subsets=[place.subset] if place.subset else None,
            slices=[place.slice] if place.slice else None,
            keys=keys,
            missing=missing,
            force=force,
            requested=requested,
        )

    def run(self, stage: Stage, partition: str | None, assets: Sequence[dg.AssetKey]) -> RunOutcome:
        """One run of a stage's job over one partition, for the given assets; returns when it has ended."""
        job = self._repository.get_reconstructable_job(stage.job)
        tags = job.get_definition().get_tags_for_partition_key(partition, list(assets)) if partition else {}
        return self._execute(job, partition, {**tags, **_TAGS}, asset_selection=list(assets))

    def run_job(self, name: str, config: Mapping[str, Any], partition: str | None = None) -> RunOutcome:
        """One run of a job of no stage, with its configuration, on a partition where it has some; returns when it has ended."""
        job = self._repository.get_reconstructable_job(name)
        tags = job.get_definition().get_tags_for_partition_key(partition, None) if partition else {}
        return self._execute(job, partition, {**tags, **_TAGS}, config)

    def _execute(
        self,
        job: Any,
        partition: str | None,
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> RunOutcome:
        started = time.monotonic()
        result = execute_job(
            job,
            self.instance,
            run_config={**_QUIET, **(config or {})},
            tags={**tags, PROCESS_TAG: str(ProcessIdentity.of(os.getpid()))},
            **arguments,
        )
        error = None if result.success else _first_error(result)
        warnings = tuple(
            entry.user_message
            for entry in self.instance.all_logs(result.run_id)
            if entry.level == logging.WARNING and not entry.is_dagster_event
        )
        seconds = time.monotonic() - started
        return RunOutcome(job.job_name, partition, result.run_id, seconds, error, warnings)


def _first_error(result: dg.JobExecutionResult) -> str:
    """What the user should read: a step's own sentence where it raised one, else its error."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error:
                cause = data.error
                while cause.cause:
                    cause = cause.cause
                return cause.message.strip()
    return "the run failed before any step did; see its log"
