"""The asset `traces`, and the job `trace` that adds to it: texts that were asked about, with the originals that they go back to."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from gradsim_assets.configuration import Settings
from gradsim_assets.core.candidates.candidate_source import ALL
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import is_slug, model_id_of
from gradsim_assets.core.tables.schemas import KEPT_TRACES, LIMA
from gradsim_assets.core.tracing.query import TextError, checked_query
from gradsim_assets.defs.models.hf_model import HF_MODEL, revision_for_run, tag_device
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, preview
from gradsim_assets.defs.tracing.tracing import Tracing
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import TRACING
from gradsim_assets.orchestration.model_registry import check_registered
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.orchestration.planner import originals_are_current
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import PROVENANCE_PREFIX

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.stored_traces import StoredTrace

JOB, _OP = "trace", "trace_texts"


class Text(dg.Config):
    """A text that is traced; without an answer the model gives its own (greedy)."""

    prompt: str = Field(description="what the model is asked")
    answer: str | None = Field(None, description="what it says; none for its own answer")


class TraceConfig(dg.Config):
    """What is traced, and how."""

    texts: list[Text] = Field(description="one or more texts, each with `prompt` and perhaps `answer`")
    method: str = Field("cosine", description="cosine, dot_product, a preconditioner, or patterns of components")
    against: str = Field(ALL, description="originals to compare with: all, bm25:K, index:K, or bm25:K+index:K")


def build() -> list[dg.AssetSpec]:
    """What was traced with each model: it grows by what people ask, and nothing of it goes stale."""
    return [
        dg.AssetSpec(
            asset_key(KEPT_TRACES.name),
            deps=[dg.AssetDep(HF_MODEL), dg.AssetDep(LIMA.name)],
            partitions_def=MODELS,
            group_name=TRACING,
            kinds={"pytorch", "parquet"},
            metadata=column_schema(KEPT_TRACES),
            description=(
                "Texts that somebody asked about, each with all originals that it was compared with, ranked, and the tokens of the "
                "best: added to by the job `trace`, by `gradsim trace`, from Python and over HTTP, each with its id, time and "
                "provenance. What was traced stays true of the revision that it names, so that nothing of it goes stale; a "
                "materialisation here tells of what a run of the job has added."
            ),
        )
    ]


def build_job(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> dg.JobDefinition:
    """The job `trace`, a model a run; `op_tags` give its step a pod of its own kind."""

    @dg.op(
        name=_OP, pool="gpu", tags=op_tags, description="Traces the texts of its configuration, one after the other."
    )
    @fails_in_one_sentence
    def trace_texts(context: dg.OpExecutionContext, config: TraceConfig, hub: ModelHub) -> None:
        _Work(context, config, hub, settings).result()

    @dg.job(
        name=JOB,
        partitions_def=MODELS,
        description=(
            "Traces texts to the originals of a model, and adds what is found to `traces`: texts, method and originals come by the "
            "run's configuration. COST: a gradient of every original that is compared, once for all texts of a run where they fit "
            "into memory."
        ),
    )
    def trace() -> None:
        trace_texts()

    return trace


class _Work:
    """One run: some texts and one model."""

    def __init__(self, context: dg.OpExecutionContext, config: TraceConfig, hub: ModelHub, settings: Settings) -> None:
        self.context, self.config, self.hub, self.settings = context, config, hub, settings
        self.slug = context.partition_key

    def result(self) -> None:
        """Traces what can be traced, tells of it, and fails where some texts could not be.

        Raises:
            InputError: the model is not registered, there is no text, or a text is empty; nothing is traced then.
        """
        model_id = self._model_id()
        self._check_texts()
        revision_for_run(self.context, self.hub, model_id)
        found: list[tuple[StoredTrace, Path]] = []
        refused: list[str] = []
        tracing = self._tracing()
        for number, text in enumerate(self.config.texts, 1):
            where = f"text {number} of {len(self.config.texts)}"
            try:
                found.append(self._traced(tracing, model_id, text, where))
            except TextError as error:
                refused.append(f"{where}: {error}")
                self.context.log.error(refused[-1])
        if found:
            self.context.log_event(self._told(found))
        if refused:
            more = f" {len(refused) - 1} more are named in the log." if len(refused) > 1 else ""
            raise dg.Failure(f"{refused[0]}{more} The other {len(found)} texts were traced.", allow_retries=False)

    def _model_id(self) -> str:
        if not is_slug(self.slug):
            raise InputError(f"{self.slug} is no model's key; launch the job with that of a registered model.")
        model_id = model_id_of(self.slug)
        check_registered(self.context.instance, self.settings.configured, model_id)
        return model_id

    def _check_texts(self) -> None:
        if not self.config.texts:
            raise InputError("there is nothing to trace; give one or more `texts` with a `prompt`.")
        for number, text in enumerate(self.config.texts, 1):
            try:
                checked_query(text.prompt, text.answer)
            except InputError as error:
                raise InputError(f"text {number} of {len(self.config.texts)}: {error}") from error

    def _tracing(self) -> Tracing:
        """Traces; with several texts, what the next one needs, too, is kept."""
        graph = self.context.repository_def.asset_graph
        return Tracing(
            self.settings,
            partial(originals_are_current, self.context.instance, graph),
            self.settings.trace.memory_bytes if len(self.config.texts) > 1 else 0,
            partial(tag_device, self.context, _OP),
        )

    def _traced(self, tracing: Tracing, model_id: str, text: Text, where: str) -> "tuple[StoredTrace, Path]":
        with progress(self.context, where, "gradients") as report:
            return tracing.trace(
                model_id,
                text.prompt,
                text.answer,
                self.config.method,
                against=self.config.against,
                log=self.context.log.info,
                progress=report,
                made_by={"run": self.context.run_id},
            )

    def _told(self, found: "Sequence[tuple[StoredTrace, Path]]") -> dg.AssetMaterialization:
        """What the UI shows of the run: its traces, and how many there are now."""
        from gradsim_assets.core.tracing.stored_traces import head_frame, ids_digest, traces_in

        root = Home(self.settings.home).traces(self.slug)
        first, _ = found[0]
        told = ("model", "revision", "originals", "retriever", "code", "against", "index")
        provenance = {name: first.provenance[name] for name in told if name in first.provenance}
        kept = traces_in(root)
        return dg.AssetMaterialization(
            asset_key(KEPT_TRACES.name),
            partition=self.slug,
            metadata={
                "traced": len(found),
                "kept": len(kept),
                "ids": ", ".join(trace.id for trace, _ in found),
                "method": self.config.method,
                "preview": preview(head_frame([trace for trace, _ in found])),
                "path": dg.MetadataValue.path(str(root)),
                **{PROVENANCE_PREFIX + name: value for name, value in provenance.items()},
            },
            tags={"dagster/data_version": ids_digest(kept)},
        )
