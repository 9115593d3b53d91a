"""Runs from the command line: the same runs, on the same instance, that the UI and the daemon launch."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_job

from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.defs.models.hf_model import observation
from gradsim_assets.defs.progress import draw_progress_on_terminal
from gradsim_assets.defs.stages import Stage
from gradsim_assets.orchestration.model_registry import register, registered, remove
from gradsim_assets.orchestration.partitions import place_of
from gradsim_assets.orchestration.stale_status import StatusResolver
from gradsim_assets.runs.environment import MODULE

#: The terminal shows progress bars and outcomes; the log of a run is in the UI.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

#: A killed command is for its user to give again; the daemon retries what it launched itself.
_TAGS = {"dagster/max_retries": "0", "gradsim/launched_by": "command line"}


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

    def models(self) -> list[str]:
        """Ids of the registered models."""
        return [model_id_of(slug) for slug in registered(self.instance)]

    def add_model(self, model_id: str) -> str:
        """As `model_registry.register`."""
        return register(self.instance, model_id)

    def remove_model(self, model_id: str) -> None:
        """As `model_registry.remove`."""
        remove(self.instance, model_id)

    def observe(self, model_id: str, version: str) -> None:
        """Records the version that a model stands at, so that tables of another one show as stale."""
        self.instance.report_runless_asset_event(observation(model_slug(model_id), version))

    def work(
        self, stage: Stage, model_id: str | None = None, force: bool = False
    ) -> dict[str | None, list[dg.AssetKey]]:
        """Per partition of a stage (of one model) the assets to materialise: missing or stale ones, all with `force`."""
        graph = self.repository.asset_graph
        keys, partitions = sorted(stage.selection.resolve(graph)), self.partitions(stage, model_id)
        resolver = StatusResolver(self.instance, graph, len(partitions))
        by_partition = {
            partition: [key for key in keys if force or resolver.get_status(key, partition) != StaleStatus.FRESH]
            for partition in partitions
        }
        return {partition: assets for partition, assets in by_partition.items() if assets}

    def partitions(self, stage: Stage, model_id: str | None = None) -> list[str | None]:
        """Partition keys of a stage, those of one model where it has models."""
        definition = self.repository.get_job(stage.job).partitions_def
        if definition is None:
            return [None]
        keys = definition.get_partition_keys(dynamic_partitions_store=self.instance)
        slug = model_slug(model_id) if model_id else None
        return [key for key in keys if slug is None or place_of(key, definition).model in (None, slug)]

    def run(self, stage: Stage, partition: str | None, assets: Sequence[dg.AssetKey]) -> RunOutcome:
        """One run of a stage's job over one partition, for the given assets; returns when it has ended."""
        job = self._repository.get_reconstructable_job(stage.job)
        tags = job.get_definition().get_tags_for_partition_key(partition, list(assets)) if partition else {}
        return self._execute(job, partition, tags={**tags, **_TAGS}, asset_selection=list(assets))

    def run_job(self, name: str, config: Mapping[str, Any]) -> RunOutcome:
        """One run of a job without partitions, with its configuration; returns when it has ended."""
        return self._execute(self._repository.get_reconstructable_job(name), None, config=config, tags=_TAGS)

    def _execute(
        self, job: Any, partition: str | None, config: Mapping[str, Any] | None = None, **arguments: Any
    ) -> RunOutcome:
        started = time.monotonic()
        result = execute_job(job, self.instance, run_config={**_QUIET, **(config or {})}, **arguments)
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
