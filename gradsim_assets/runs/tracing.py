"""Traces of texts in this process, with the models and originals of the home that the environment names."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.candidates.candidate_source import ALL
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tracing.query import TextError, checked_query
from gradsim_assets.runs.trace_check import trace_check

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.question_files import FiledQuestion
    from gradsim_assets.core.tracing.stored_traces import StoredTrace
    from gradsim_assets.defs.tracing.tracing import Log, Tracing
    from gradsim_assets.runs.launcher import Launcher


def trace(
    model_id: str,
    prompt: str,
    answer: str | None = None,
    method: str = "cosine",
    against: str = ALL,
    log: "Log" = lambda said: None,
) -> tuple["StoredTrace", Path]:
    """As `Tracing.trace`, in the home that the environment names, with the model and the originals as they are now.

    Raises:
        InputError: the model is not registered, or as `Tracing.trace`.
    """
    with _tracing(model_id) as tracing:
        return tracing.trace(model_id, prompt, answer, method, against=against, log=log)


def trace_file(
    model_id: str, path: Path, method: str = "cosine", against: str = ALL, log: "Log" = lambda said: None
) -> "Iterator[tuple[FiledQuestion, tuple[StoredTrace, Path] | TextError]]":
    """The texts of a file one after the other, each with what `trace` gives, or why this one text cannot be traced.

    Raises:
        InputError: as `read_questions`; a text is empty or holds half of a character; the model is not registered.
    """
    from gradsim_assets.core.tracing.question_files import read_questions

    questions = read_questions(path)
    for one in questions:
        try:
            checked_query(one.prompt, one.answer)
        except InputError as error:
            raise InputError(f"{one.place}: {error}") from error
    with _tracing(model_id) as tracing:
        for one in questions:
            try:
                found: tuple[StoredTrace, Path] | TextError = tracing.trace(
                    model_id, one.prompt, one.answer, method, against=against, log=log
                )
            except TextError as error:
                found = error
            yield one, found


def traces_of(settings: Settings, launcher: "Launcher") -> "Tracing":
    """Traces in one home, to originals that are those of now as far as its instance has been told."""
    from gradsim_assets.defs.tracing.tracing import Tracing
    from gradsim_assets.orchestration.planner import originals_are_current

    graph = launcher.repository.asset_graph
    return Tracing(settings, partial(originals_are_current, launcher.instance, graph), settings.trace.memory_bytes)


def prepare() -> None:
    """Imports what a trace needs before it knows its model: of a first trace's seconds most."""
    import torch
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto  # noqa: F401  # with what every model's own module imports
    from torch.autograd import forward_ad

    import gradsim_assets.core.tracing.trace
    import gradsim_assets.defs.tracing.tracing  # noqa: F401

    with forward_ad.dual_level():  # for the first of which torch compiles rules of its own
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@contextmanager
def _tracing(model_id: str) -> "Iterator[Tracing]":
    """Traces in the home that the environment names: torch is imported while another process asks Dagster of the model."""
    settings = load_settings()
    with trace_check(model_id) as check:
        prepare()
        from gradsim_assets.defs.tracing.tracing import Tracing

        yield Tracing(settings, check.originals_are_current, settings.trace.memory_bytes, code=check.code)
