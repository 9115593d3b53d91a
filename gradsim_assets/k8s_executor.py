"""dagster-k8s's executor, with the compute profile that the run's model asks for.

Op tags belong to an asset, but a step of a 7 B model needs another pod than the same step of a small one. So a heavy step's
tags are exchanged for those of its model's profile before dagster-k8s reads them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)

from gradsim_assets.profiles import K8S_CONFIG

#: From a run's tags to the `op_tags` of its model's profile; None keeps those of the asset.
Chooser = Callable[[Mapping[str, str]], Mapping[str, Any] | None]


class _OtherTags(StepHandlerContext):
    """A step handler's context that shows other step tags."""

    def __init__(self, context: StepHandlerContext, step_tags: Mapping[str, Mapping[str, str]]) -> None:
        self._context, self._tags = context, step_tags

    def __getattribute__(self, name: str) -> Any:
        if name == "step_tags":
            return object.__getattribute__(self, "_tags")
        return getattr(object.__getattribute__(self, "_context"), name)


class ProfileStepHandler(StepHandler):
    """Passes everything on to another step handler, with heavy steps' tags exchanged."""

    def __init__(self, inner: StepHandler, heavy: Mapping[str, Any], choose: Chooser) -> None:
        self._inner, self._heavy, self._choose = inner, heavy[K8S_CONFIG], choose

    @property
    def name(self) -> str:
        return self._inner.name

    def _profiled(self, context: StepHandlerContext) -> StepHandlerContext:
        chosen = self._choose(context.dagster_run.tags)
        if chosen is None:
            return context
        written = json.dumps(chosen[K8S_CONFIG])
        tags = {
            key: {**tags, K8S_CONFIG: written} if json.loads(tags.get(K8S_CONFIG, "{}")) == self._heavy else tags
            for key, tags in context.step_tags.items()
        }
        return _OtherTags(context, tags)

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        yield from self._inner.launch_step(self._profiled(step_handler_context))

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        return self._inner.check_step_health(self._profiled(step_handler_context))

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        yield from self._inner.terminate_step(self._profiled(step_handler_context))


def profile_executor(heavy: Mapping[str, Any], choose: Chooser) -> dg.ExecutorDefinition:
    """k8s_job_executor whose heavy steps (those with the tags `heavy`) get the profile that `choose` names."""
    from dagster_k8s import k8s_job_executor

    @dg.executor(
        name=k8s_job_executor.name,
        config_schema=k8s_job_executor.config_schema,
        requirements=multiple_process_executor_requirements(),
    )
    def by_profile(context: dg.InitExecutorContext) -> dg.Executor:
        executor = k8s_job_executor.executor_creation_fn(context)
        assert isinstance(executor, StepDelegatingExecutor)
        executor._step_handler = ProfileStepHandler(executor._step_handler, heavy, choose)
        return executor

    return by_profile
