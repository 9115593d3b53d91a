"""Texts traced to the originals of one home, whoever asks: a command, the pages, Python, or the job `trace`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsim_assets.configuration import Settings
from gradsim_assets.core.candidates.candidate_source import ALL, CandidateSource
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.core.tracing.query import checked_query
from gradsim_assets.defs.curvature.factors import preconditioners_of
from gradsim_assets.defs.tracing.code_versions import CodeVersions
from gradsim_assets.defs.tracing.compared_originals import Choice, OpenedIndex
from gradsim_assets.resources.by_name import Resources, resources

if TYPE_CHECKING:
    import polars as pl

    from gradsim_assets.core.gradients.engine import PassRequest, PassResult
    from gradsim_assets.core.models.encoded_sample import EncodedSample
    from gradsim_assets.core.models.loading import LoadedModel
    from gradsim_assets.core.models.revisions import Revision
    from gradsim_assets.core.tracing.held_originals import HeldOriginals
    from gradsim_assets.core.tracing.kept_gradients import KeptGradients
    from gradsim_assets.core.tracing.known_originals import KnownOriginals
    from gradsim_assets.core.tracing.stored_traces import StoredTrace
    from gradsim_assets.core.tracing.trace import Method

Log = Callable[[str], None]
Progress = Callable[[int, int, str], None]

#: Originals of which the page shows the texts, and those whose tokens are split.
SHOWN, SPLIT = 20, 5


@dataclass
class _Kept:
    """A loaded model, and the gradients of its originals where they are held."""

    loaded: "LoadedModel"
    held: "HeldOriginals | None" = None


@dataclass(frozen=True)
class Tracing:
    """Traces of texts to the originals of one home, one at a time.

    Attributes:
        originals_are_current: says whether the stored originals are those of now.
        memory_bytes: where there are any, the last model stays loaded, with the gradients of all originals if they take no more.
        on_load: is told of a model that was loaded.
        code: tells the versions of the code that traces.
    """

    settings: Settings
    originals_are_current: Callable[[], bool]
    memory_bytes: int = 0
    on_load: "Callable[[LoadedModel], None]" = lambda loaded: None
    code: Callable[[], CodeVersions] = CodeVersions.now
    _kept: dict[tuple[str, ...], _Kept] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known: dict[tuple[str, str], "KnownOriginals"] = field(default_factory=dict, init=False, repr=False, compare=False)
    _opened: OpenedIndex = field(default_factory=OpenedIndex, init=False, repr=False, compare=False)

    @cached_property
    def _code(self) -> CodeVersions:
        return self.code()

    @cached_property
    def _resources(self) -> Resources:
        return resources(self.settings)

    def prepare(self) -> None:
        """Follows the code and opens what is to be asked: the rest depends on the model."""
        _ = self._code, self._resources

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
        made_by: Mapping[str, str] | None = None,
    ) -> tuple["StoredTrace", Path]:
        """The trace of a text with a registered model, and its folder; taken from there where the same was traced before.

        Without an answer the model gives its own (greedy). `against` says with which originals it is compared (see
        `CandidateSource`): the order of those is exact. `split` is of how many of the best originals the tokens are told. `made_by`
        is kept with a trace that is made now.

        Raises:
            InputError: a text is empty or too long, the method is unknown or not in the index, or the originals, the curvature
                or the index are missing or out of date.
            dagster.Failure: the pass found numbers that are wrong.
        """
        from gradsim_assets.core.tracing.page import render_trace
        from gradsim_assets.core.tracing.stored_traces import StoredTrace
        from gradsim_assets.core.tracing.trace import Method, answered, digest, originals_of

        query = checked_query(prompt, answer)
        how, source = Method.of(method, self.settings.preconditioners.methods), CandidateSource.of(against)
        originals, dataset = self._originals()
        hub = self._resources.hub
        revision = hub.resolve(model_id)
        version = hub.version(model_id, revision)
        choice = Choice.of(source, how, self._resources, model_slug(model_id), version, self._opened)
        made_from = self._provenance(model_id, revision, dataset) | choice.provenance
        root = Home(self.settings.home).traces(model_slug(model_id))
        trace_id = digest(query, answer is None, method, split, *made_from.values())
        if (root / trace_id).is_dir():
            return StoredTrace.load(root / trace_id), root / trace_id
        at_hand = self._at_hand(model_id, revision, originals.frame, source.is_all, progress, log)
        loaded = at_hand.loaded
        if answer is None:
            query = answered(query, loaded)
        stored = self._preconditioners(how, model_id, version)
        run = self._run(loaded, Home(self.settings.home).scratch("traces", trace_id), progress, log, stored)
        among = choice.ids(query, originals, loaded, hub.settings(model_id).context, log)
        ranked, tokens = originals_of(
            query,
            originals,
            loaded,
            run,
            how,
            policy=hub.settings(model_id).context,
            preconditioner=stored.get(how.preconditioner) if how.preconditioner else None,
            split=split,
            held=at_hand.held,
            among=among,
        )
        provenance = {
            "model": model_id,
            **made_from,
            **(made_by or {}),
            "traced": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        made = StoredTrace(trace_id, query.user, query.assistant, answer is None, method, provenance, ranked, tokens)
        return made, made.save(root, render_trace(made, originals.by_id, SHOWN))

    def _at_hand(
        self, model_id: str, revision: "Revision", originals: "pl.DataFrame", of_all: bool, progress: Progress, log: Log
    ) -> _Kept:
        """The model, kept for the next text; with it the originals' gradients where they may be and those `of_all` are wanted."""
        hub = self._resources.hub
        key = (model_id, hub.version(model_id, revision), fingerprint(originals))
        if key not in self._kept:
            self._kept.clear()  # first, for two models need not fit
            kept = _Kept(hub.load(model_id, revision, log))
            self.on_load(kept.loaded)
            if not self.memory_bytes:
                return kept
            self._kept[key] = kept
        kept = self._kept[key]
        if kept.held is None and of_all:
            kept.held = self._held(kept.loaded, model_id, originals, progress, log)
        return kept

    def _held(
        self, loaded: "LoadedModel", model_id: str, originals: "pl.DataFrame", progress: Progress, log: Log
    ) -> "HeldOriginals | None":
        """The gradients of the originals that the context policy leaves; None where they take too much memory."""
        from gradsim_assets.core.models.tokenization import encode_samples
        from gradsim_assets.core.samples import samples_of
        from gradsim_assets.core.tracing.held_originals import held_bytes

        if held_bytes(loaded.model, originals.height) > self.memory_bytes:
            return None
        policy = self._resources.hub.settings(model_id).context
        encoding = encode_samples(samples_of(originals), loaded.tokenizer, loaded.max_positions, loaded.takes, policy)
        kept = self._kept_gradients(loaded, model_id, encoding.samples, log)
        return self._resources.compute.held_originals(loaded, encoding.samples, kept, progress, log)

    def _kept_gradients(
        self, loaded: "LoadedModel", model_id: str, samples: "Sequence[EncodedSample]", log: Log
    ) -> "KeptGradients":
        """Where the gradients of these originals are kept, under all that they follow from."""
        from gradsim_assets.core.gradients.inputs_version import samples_version
        from gradsim_assets.core.tracing.kept_gradients import KeptGradients

        hub, compute = self._resources.hub, self._resources.compute
        made_from = (
            self._code.gradients,
            hub.version(model_id, loaded.revision),
            hub.settings(model_id).dtype,
            compute.precision,
            compute.libraries(False, loaded.device),
        )
        folder = compute.places.scratch("fetched", "gradients", model_slug(model_id))
        return KeptGradients(folder, samples_version(samples, *made_from), log)

    def _originals(self) -> "tuple[KnownOriginals, str]":
        """The originals of now with their fingerprint; raises InputError where they are missing or out of date."""
        from gradsim_assets.core.tracing.known_originals import KnownOriginals

        if not self.originals_are_current():
            raise InputError(
                "the originals are missing or out of date; `gradsim run MODEL --only datasets` makes them."
            )
        frame = self._resources.store.tables.read([LIMA.name])
        key = (fingerprint(frame), str(self.settings.retriever_model))
        if key not in self._known:
            self._known.clear()
            words = self._resources.hub.retriever_tokens(self.settings.retriever_model)[0]
            self._known[key] = KnownOriginals(frame, words)
        return self._known[key], key[0]

    def _provenance(self, model_id: str, revision: "Revision", dataset: str) -> dict[str, str]:
        """What a trace is made from, beside the text; `dataset` is the originals' fingerprint."""
        hub, tuning = self._resources.hub, self.settings.preconditioners
        return {
            "revision": hub.version(model_id, revision),
            "originals": dataset,
            "retriever": str(self.settings.retriever_model or "whitespace"),
            "damping": str(tuning.damping),
            "epsilon": str(tuning.epsilon),
            "precision": self.settings.compute.precision,
            "code": self._code.trace,
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

        def run(request: "PassRequest") -> "AbstractContextManager[PassResult]":
            compute = self._resources.compute
            return compute.run_pass(loaded, request, scratch, progress, log, self._code.run, preconditioners)

        return run
