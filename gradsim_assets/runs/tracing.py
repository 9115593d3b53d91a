"""Traces of texts: in this process, with the models and originals of this home."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.candidates.candidate_source import ALL, CandidateSource
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.curvature.factors import preconditioners_of
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.resources.by_name import Resources, resources
from gradsim_assets.runs.compared_originals import Choice
from gradsim_assets.runs.environment import open_instance
from gradsim_assets.runs.launcher import Launcher

if TYPE_CHECKING:
    import polars as pl

    from gradsim_assets.core.gradients.engine import PassRequest, PassResult
    from gradsim_assets.core.models.loading import LoadedModel
    from gradsim_assets.core.models.revisions import Revision
    from gradsim_assets.core.tracing.stored_traces import StoredTrace
    from gradsim_assets.core.tracing.trace import Method

Log = Callable[[str], None]
Progress = Callable[[int, int, str], None]

#: Originals of which the page shows the texts, and those whose tokens are split.
SHOWN, SPLIT = 20, 5


def trace(
    model_id: str,
    prompt: str,
    answer: str | None = None,
    method: str = "cosine",
    against: str = ALL,
    log: Log = lambda said: None,
) -> tuple["StoredTrace", Path]:
    """As `Tracing.trace`, in the home that the environment names, with the model and the originals as they are now.

    Raises:
        InputError: the model is not registered, or as `Tracing.trace`.
    """
    settings, runs = load_settings(), Launcher(open_instance(writes=True))
    if model_id not in {*runs.models(), *settings.configured}:
        raise InputError(
            f"{model_id} is not registered; `gradsim models add {model_id}` does it, `gradsim models list` shows what is."
        )
    runs.observe(model_id, settings)
    tracing = Tracing(settings, runs.instance, runs.repository.asset_graph)
    return tracing.trace(model_id, prompt, answer, method, against=against, log=log)


@dataclass(frozen=True)
class Tracing:
    """Traces of texts to the originals of one home.

    `instance` and `graph` are asked whether the originals are up to date.
    """

    settings: Settings
    instance: dg.DagsterInstance
    graph: BaseAssetGraph

    @cached_property
    def _resources(self) -> Resources:
        return resources(self.settings)

    def trace(
        self,
        model_id: str,
        prompt: str,
        answer: str | None = None,
        method: str = "cosine",
        *,
        against: str = ALL,
        split: int = SPLIT,
        log: Log = lambda said: None,
        progress: Progress = lambda done, total, what: None,
    ) -> tuple["StoredTrace", Path]:
        """The trace of a text with a registered model, and its folder; taken from there where the same was traced before.

        Without an answer the model gives its own (greedy). `against` says with which originals it is compared (see
        `CandidateSource`): the order of those is exact. `split` is of how many of the best originals the tokens are told.

        Raises:
            InputError: a text is empty or too long, the method is unknown or not in the index, or the originals, the curvature
                or the index are missing or out of date.
            dg.Failure: the pass found numbers that are wrong.
        """
        from gradsim_assets.core.samples import samples_of
        from gradsim_assets.core.tracing.page import render_trace
        from gradsim_assets.core.tracing.stored_traces import StoredTrace
        from gradsim_assets.core.tracing.trace import Method, answered, checked_query, digest, originals_of

        query = checked_query(prompt, answer)
        how, source = Method.of(method, self.settings.preconditioners.methods), CandidateSource.of(against)
        originals = self._originals()
        hub = self._resources.hub
        revision = hub.resolve(model_id)
        choice = Choice.of(source, how, self._resources, model_slug(model_id), hub.version(model_id, revision))
        made_from = self._provenance(model_id, revision, originals) | choice.provenance
        root = Home(self.settings.home).traces(model_slug(model_id))
        trace_id = digest(query, answer is None, method, split, *made_from.values())
        if (root / trace_id).is_dir():
            return StoredTrace.load(root / trace_id), root / trace_id
        loaded = hub.load(model_id, revision, log)
        if answer is None:
            query = answered(query, loaded)
        stored = self._preconditioners(how, model_id, hub.version(model_id, revision))
        words = hub.retriever_tokens(self.settings.retriever_model)[0]
        run = self._run(loaded, Home(self.settings.home).scratch("traces", trace_id), progress, log, stored)
        among = choice.ids(query, originals, loaded, words, hub.settings(model_id).context, log)
        ranked, tokens = originals_of(
            query,
            originals,
            loaded,
            run,
            how,
            policy=hub.settings(model_id).context,
            preconditioner=stored.get(how.preconditioner) if how.preconditioner else None,
            words=words,
            split=split,
            among=among,
        )
        provenance = {"model": model_id, **made_from, "traced": datetime.now(UTC).isoformat(timespec="seconds")}
        made = StoredTrace(trace_id, query.user, query.assistant, answer is None, method, provenance, ranked, tokens)
        by_id = {sample.id: sample for sample in samples_of(originals)}
        return made, made.save(root, render_trace(made, by_id, SHOWN))

    def _originals(self) -> "pl.DataFrame":
        """The originals of now; raises InputError where they are missing or out of date."""
        if targets(self.instance, self.graph, keys=[asset_key(LIMA.name)]):
            raise InputError(
                "the originals are missing or out of date; `gradsim run MODEL --only datasets` makes them."
            )
        return self._resources.store.tables.read([LIMA.name])

    def _provenance(self, model_id: str, revision: "Revision", originals: "pl.DataFrame") -> dict[str, str]:
        """What a trace is made from, beside the text."""
        hub, tuning = self._resources.hub, self.settings.preconditioners
        return {
            "revision": hub.version(model_id, revision),
            "originals": fingerprint(originals),
            "retriever": str(self.settings.retriever_model or "whitespace"),
            "damping": str(tuning.damping),
            "epsilon": str(tuning.epsilon),
            "precision": self.settings.compute.precision,
            "code": code_version("core.models.loading:load_model", "core.tracing.trace:originals_of"),
        }

    def _preconditioners(self, method: "Method", model_id: str, version: str) -> dict[str, Any]:
        """What gradients are multiplied with, by its name: nothing for a method of plain gradients."""
        if method.preconditioner is None:
            return {}
        found, slug = self._resources, model_slug(model_id)
        stored, _ = preconditioners_of(
            [method.preconditioner], found.store, found.compute, slug, version, self.settings.preconditioners
        )
        return dict(stored)

    def _run(
        self, loaded: "LoadedModel", scratch: Path, progress: Progress, log: Log, preconditioners: dict[str, Any]
    ) -> "Callable[[PassRequest], AbstractContextManager[PassResult]]":
        """Runs the pass of a trace; a killed one goes on behind its last finished block."""
        version = code_version("core.models.loading:load_model", "core.gradients.engine:run_pass")

        def run(request: "PassRequest") -> "AbstractContextManager[PassResult]":
            compute = self._resources.compute
            return compute.run_pass(loaded, request, scratch, progress, log, version, preconditioners)

        return run
