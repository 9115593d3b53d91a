"""How steps are executed on Kubernetes: dagster-k8s' own executor, with a compute profile per model."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    CheckStepHealthResult,
    StepHandler,
    StepHandlerContext,
    exchange_step_handler,
    multiple_process_executor_requirements,
)
from gradsim_assets.runs.compute_profiles import PROFILE

#: Run tags with the model's partition key: beside that of another dimension, and alone.
_MODEL, _ALONE = "dagster/partition/model", "dagster/partition"


def k8s_executor(profile: str, by_model: Mapping[str, Mapping[str, Any]]) -> dg.ExecutorDefinition:
    """`k8s_job_executor`, whose steps of the named profile take their model's tags where `by_model` (by slug, or by a pattern of
    slugs) has some.
    """
    from dagster_k8s import k8s_job_executor

    if not by_model:
        return k8s_job_executor

    # As Dagster keeps the tags of an op.
    written = {slug: {key: _written(value) for key, value in tags.items()} for slug, tags in by_model.items()}

    @dg.executor(
        name=k8s_job_executor.name,
        config_schema=k8s_job_executor.config_schema,
        requirements=multiple_process_executor_requirements(),
    )
    def executor(context: dg.InitExecutorContext) -> dg.Executor:
        made = k8s_job_executor.executor_creation_fn(context)
        exchange_step_handler(made, lambda inner: ModelProfiles(inner, profile, written))
        return made

    return executor


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class ModelProfiles(StepHandler):
    """Starts the steps of one profile with the tags of another one where their run's model chose it.

    Op tags are fixed when definitions load, before a run says which model it is about. And dagster-k8s merges maps and
    appends lists: a second profile on top of the first would keep the first one's devices, node selector and tolerations.
    So the tags are exchanged before dagster-k8s reads them.
    """

    def __init__(self, inner: StepHandler, profile: str, by_model: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        self._inner, self._profile, self._by_model = inner, profile, by_model

    @property
    def name(self) -> str:
        """As in the run's log."""
        return self._inner.name

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[Any]:
        """Creates the step's Job."""
        return self._inner.launch_step(self._exchanged(step_handler_context))

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Looks at the step's Job."""
        return self._inner.check_step_health(self._exchanged(step_handler_context))

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[Any]:
        """Deletes the step's Job."""
        return self._inner.terminate_step(self._exchanged(step_handler_context))

    def _exchanged(self, context: StepHandlerContext) -> StepHandlerContext:
        run = context.dagster_run.tags
        model = run.get(_MODEL) or run.get(_ALONE, "")
        patterns = (tags for pattern, tags in self._by_model.items() if fnmatchcase(model, pattern))
        tags = self._by_model.get(model) or next(patterns, None)
        return context if tags is None else _Tagged(context, self._profile, tags)


class _Tagged(StepHandlerContext):
    """A step's context with other tags."""

    def __init__(self, context: StepHandlerContext, profile: str, tags: Mapping[str, str]) -> None:
        vars(self).update(vars(context))
        self._step_tags = {
            key: {**old, **tags} if old.get(PROFILE) == profile else old for key, old in context.step_tags.items()
        }

    @property
    def step_tags(self) -> Mapping[str, Mapping[str, str]]:
        """Tags by step key."""
        return self._step_tags
