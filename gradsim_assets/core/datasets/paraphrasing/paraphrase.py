"""Paraphrasing samples: what is missing is asked for, and the samples are put together from the store."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from gradsim_assets.core.datasets.paraphrasing.answer_checks import (
    Verdict,
    best,
    is_enough,
    is_settled,
    only_reasoning,
)
from gradsim_assets.core.datasets.paraphrasing.answer_store import Answer, AnswerStore
from gradsim_assets.core.datasets.paraphrasing.batch import BatchStatus, ask_all_in_batches, batch_round
from gradsim_assets.core.datasets.paraphrasing.live import ask_all
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request, estimated_tokens, request_for
from gradsim_assets.core.samples import Missing, Sample

Result = TypeVar("Result")

#: Called with (texts done, texts in all, a note on the cost).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ParaphraseResult:
    """Paraphrased samples in the order of the originals, with what is doubtful and what it took.

    Attributes:
        variants: One per original. A text that found no sound answer keeps its last doubtful one, and is flagged; where not
            even that was found, the variant is missing: the original never stands in for its paraphrase.
        flags: By id, what is doubtful about a variant or why it is missing: "user: language", "assistant: cut", or both.
        prompt_tokens, completion_tokens: By id, over all attempts for its texts.
        models: By id, the model that the service says it used.
        cost_usd: Price of all answers that this result rests on, whenever they were paid.
        paid_usd: What this call has paid.
        counts: texts, stored (needed no request), requests (answers paid now), retried (texts with more than one attempt),
            flagged (doubtful variants), missing (variants), and one `flagged: <fault>` or `missing: <fault>` for every fault
            of a text.
    """

    variants: list[Sample | Missing]
    flags: dict[str, str]
    prompt_tokens: dict[str, int]
    completion_tokens: dict[str, int]
    models: dict[str, str]
    cost_usd: float
    paid_usd: float
    counts: dict[str, int]


@dataclass(frozen=True)
class Estimate:
    """What paraphrasing would take, before anything is spent. `most_usd` is never exceeded as long as no retry is due."""

    texts: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    most_usd: float
    limit_usd: float | None
    priced: bool

    def __str__(self) -> str:
        missing = self.texts - self.stored
        if not missing:
            return f"All {self.texts} texts are answered in the store: nothing would be asked for and nothing spent."
        price = f"about {self.cost_usd:.4f} USD (at most {self.most_usd:.4f})" if self.priced else "an unknown price"
        limit = f"; the limit is {self.limit_usd:g} USD" if self.limit_usd is not None else ""
        return (
            f"{missing} of {self.texts} texts would be asked for ({self.stored} are in the store): about "
            f"{self.prompt_tokens} prompt and {self.completion_tokens} completion tokens, {price}{limit}."
        )


@dataclass
class _Meter:
    """Counts what a call pays."""

    progress: Progress | None
    total: int
    done: int
    paid_usd: float = 0.0
    requests: int = 0

    def answered(self, answer: Answer) -> None:
        self.paid_usd += answer.cost_usd
        self.requests += 1
        self.report()

    def finished(self) -> None:
        self.done += 1
        self.report()

    def progressed(self, status: BatchStatus) -> None:
        self.done = self.total - status.waiting
        self.report(str(status))

    def report(self, note: str = "") -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, note or f"{self.requests} answers, {self.paid_usd:.4f} USD")


def paraphrase_samples(
    samples: Sequence[Sample], options: ParaphraserOptions, progress: Progress | None = None
) -> ParaphraseResult:
    """The texts of every user and assistant turn rewritten, each asked for on its own; what the store holds is not asked for again.

    Blocks until all is done, in batch mode too. May be killed at any moment and called again.

    Raises:
        InputError: key, model, address or price are at fault, or the spending limit would be crossed
            (`SpendingLimitError`).
        ServiceError: the service failed for longer than the deadline.
    """
    requests = requests_of(samples, options)
    _ = options.price  # an unknown price is told before anything is asked
    with AnswerStore(options.store) as store:
        open_ = [request for request in requests.values() if not is_settled(request, options, store)]
        meter = _Meter(progress, len(requests), len(requests) - len(open_))
        meter.report()
        if open_ and options.mode == "batch":
            _run(ask_all_in_batches(open_, options, store, meter.answered, meter.progressed))
        elif open_:
            _run(ask_all(open_, options, store, meter.answered, meter.finished))
        store.refresh()
        if hopeless := only_reasoning(list(requests.values()), options, store):
            raise hopeless
        return _assemble(samples, options, store, requests, len(requests) - len(open_), meter)


def batch_step(samples: Sequence[Sample], options: ParaphraserOptions) -> BatchStatus:
    """One step of batch mode that does not wait: takes in what is over and submits what is missing (for a sensor).

    Once it is done, `paraphrase_samples` returns at once.

    Raises:
        InputError, ServiceError: as `paraphrase_samples`.
    """
    requests = list(requests_of(samples, options).values())
    with AnswerStore(options.store) as store:
        return _run(batch_round(requests, options, store, lambda answer: None))


def estimate(samples: Sequence[Sample], options: ParaphraserOptions) -> Estimate:
    """What `paraphrase_samples` would ask for and about what it would cost; asks for nothing.

    Raises:
        InputError: a spending limit is set, but the model's price is unknown.
    """
    requests = requests_of(samples, options)
    with AnswerStore(options.store) as store:
        missing = [request for request in requests.values() if not is_settled(request, options, store)]
    frame = estimated_tokens(options.system_prompt) + 12
    prompt = sum(estimated_tokens(request.text) + frame for request in missing)
    completion = sum(estimated_tokens(request.text) for request in missing)
    return Estimate(
        texts=len(requests),
        stored=len(requests) - len(missing),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_usd=options.cost(prompt, completion),
        most_usd=sum(request.most_expensive(options) for request in missing),
        limit_usd=options.max_cost_usd,
        priced=options.price is not None,
    )


def requests_of(samples: Sequence[Sample], options: ParaphraserOptions) -> dict[str, Request]:
    """The distinct requests for all texts by key, in order; a text that occurs twice is asked for once."""
    requests: dict[str, Request] = {}
    for sample in samples:
        for role, text in sample.texts:
            request = request_for(text, role, options)
            requests.setdefault(request.key, request)
    return requests


def _assemble(
    samples: Sequence[Sample],
    options: ParaphraserOptions,
    store: AnswerStore,
    requests: dict[str, Request],
    stored: int,
    meter: _Meter,
) -> ParaphraseResult:
    attempts = {key: _counted(request, store.attempts(key), options) for key, request in requests.items()}
    result = ParaphraseResult(
        [], {}, {}, {}, {}, sum(a.cost_usd for found in attempts.values() for a in found), meter.paid_usd, {}
    )
    faults: Counter[str] = Counter()
    for sample in samples:
        asked = [request_for(text, role, options) for role, text in sample.texts]
        verdicts = [best(request, attempts[request.key], options) for request in asked]
        doubts = [(request.role, verdict) for request, verdict in zip(asked, verdicts, strict=True) if verdict.fault]
        if doubts:
            faults_said = (f"{role}: {verdict.fault}" for role, verdict in doubts)
            result.flags[sample.id] = "; ".join(dict.fromkeys(faults_said))
        faults.update(_counter(verdict) for _, verdict in doubts)
        result.variants.append(_variant(sample, verdicts, result.flags))
        used = [answer for request in asked for answer in attempts[request.key]]
        result.prompt_tokens[sample.id] = sum(answer.prompt_tokens for answer in used)
        result.completion_tokens[sample.id] = sum(answer.completion_tokens for answer in used)
        result.models[sample.id] = used[-1].model
    missing = sum(isinstance(variant, Missing) for variant in result.variants)
    result.counts.update(
        texts=len(requests),
        stored=stored,
        requests=meter.requests,
        retried=sum(len(found) > 1 for found in attempts.values()),
        flagged=len(result.flags) - missing,
        missing=missing,
        **faults,
    )
    return result


def _variant(sample: Sample, verdicts: Sequence[Verdict], flags: Mapping[str, str]) -> Sample | Missing:
    texts = [verdict.text for verdict in verdicts if verdict.text is not None]
    return Missing(sample.id, flags[sample.id]) if len(texts) < len(verdicts) else sample.with_texts(texts)


def _counter(verdict: Verdict) -> str:
    """The name that a fault is counted under, without what the service said of it."""
    return f"{'missing' if verdict.text is None else 'flagged'}: {str(verdict.fault).partition(' (')[0]}"


def _counted(request: Request, found: Sequence[Answer], options: ParaphraserOptions) -> Sequence[Answer]:
    """The attempts up to the one that is enough: more of them may be stored than are asked for now."""
    return next((found[:n] for n in range(1, len(found) + 1) if is_enough(request, found[:n], options)), found)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end, in a thread of its own where this one has an event loop already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
