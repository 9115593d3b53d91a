"""The batch endpoint: half the price, an answer within a day, and the same store.

A batch outlives the process that submitted it. Its token goes into the journal before anything is submitted and into
the batch's metadata, so that a batch whose submitter was killed is found again rather than paid again.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.paraphrasing.answer_checks import is_settled, only_reasoning
from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore, OpenBatch, Slot
from gradsim_assets.core.datasets.paraphrasing.budget import affordable, limit_reached
from gradsim_assets.core.datasets.paraphrasing.chat_service import client, failed
from gradsim_assets.core.datasets.paraphrasing.completion import invalid, parse_answer
from gradsim_assets.core.datasets.paraphrasing.errors import RefusedError, RejectedError, TransientError
from gradsim_assets.core.datasets.paraphrasing.failures import Failure, failure_of, meaning
from gradsim_assets.core.datasets.paraphrasing.live import answer_event, failed_event, rejected
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request
from gradsim_assets.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    import openai

#: The key under which a batch's metadata hold its token.
_METADATA = "gradsim"

#: What the endpoint takes in one batch.
_MOST_REQUESTS = 50_000

_OVER = ("completed", "failed", "expired", "cancelled")

_RETRIES = 5

#: Batches in which a text may fail, while others are answered, before it is given up.
_MOST_FAILURES = 3


@dataclass(frozen=True)
class BatchStatus:
    """Where a batch run stands: `waiting` texts of `texts` have no final answer, `batches` are under way."""

    texts: int
    waiting: int
    batches: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether every text has its final answer."""
        return self.waiting == 0

    def __str__(self) -> str:
        if self.done:
            return f"All {self.texts} texts are answered."
        return f"{self.waiting} of {self.texts} texts wait for {', '.join(self.batches) or 'another process'}."


async def ask_all_in_batches(
    requests: Sequence[Request],
    options: ParaphraserOptions,
    store: AnswerStore,
    answered: Callable[[Answer], None],
    progressed: Callable[[BatchStatus], None],
) -> None:
    """Submits and polls until every text has a sound answer, or all its attempts.

    Raises:
        InputError, ServiceError: as `batch_round`.
    """
    while True:
        status = await batch_round(requests, options, store, answered)
        progressed(status)
        if status.done:
            return
        await asyncio.sleep(options.batch_poll_seconds)


async def batch_round(
    requests: Sequence[Request], options: ParaphraserOptions, store: AnswerStore, answered: Callable[[Answer], None]
) -> BatchStatus:
    """Takes in the batches that are over, submits what is missing, and returns without waiting.

    Raises:
        InputError: key, model or address are wrong, there is no batch endpoint, the batch was refused, or the spending
            limit would be crossed.
        ServiceError: the service fails; calling again later goes on.
    """
    import openai

    try:
        async with client(options) as api:
            return await _Batcher(api.with_options(max_retries=_RETRIES), options, store, answered).round(requests)
    except openai.NotFoundError:
        raise InputError(
            f'the chat service at {options.place} has no batch endpoint (HTTP 404); set mode = "live" in [paraphraser].'
        ) from None
    except openai.APIError as error:
        raise _sentence(failed(error, options), options) from None


def _sentence(found: Exception, options: ParaphraserOptions) -> Exception:
    """A failure of the endpoint itself, which is no text's own."""
    if isinstance(found, TransientError):
        return ServiceError(
            found.misdirected or f"the chat service at {options.place} fails ({found.reason}); run again later."
        )
    if isinstance(found, RejectedError):
        return InputError(
            f"the chat service at {options.place} does not take the batch ({found.reason}); "
            'set mode = "live" in [paraphraser].'
        )
    return InputError(found.sentence) if isinstance(found, RefusedError) else found


class _Batcher:
    def __init__(
        self,
        api: "openai.AsyncOpenAI",
        options: ParaphraserOptions,
        store: AnswerStore,
        answered: Callable[[Answer], None],
    ) -> None:
        self.api, self.options, self.store, self.answered = api, options, store, answered

    async def round(self, requests: Sequence[Request]) -> BatchStatus:
        self.store.refresh()
        by_key = {request.key: request for request in requests}
        for batch in self._ours(by_key):
            if batch.id is not None:
                await self._collect(batch, by_key)
            elif self.store.abandoned(batch):
                await self._find(batch)
        self.store.refresh()
        if hopeless := only_reasoning(requests, self.options, self.store):
            raise hopeless
        if submitted := self._claim(requests):
            await self._submit(submitted, by_key)
        self.store.refresh()
        waiting = [request for request in requests if not is_settled(request, self.options, self.store)]
        batches = tuple(batch.id for batch in self._ours(by_key) if batch.id is not None)
        return BatchStatus(len(requests), len(waiting), batches)

    def _ours(self, by_key: dict[str, Request]) -> list[OpenBatch]:
        return [batch for batch in self.store.batches if any(key in by_key for key, _ in batch.slots)]

    def _claim(self, requests: Sequence[Request]) -> OpenBatch | None:
        """A batch of all that is missing and that nobody is asking for; in the journal before it is submitted."""
        with self.store.exclusively():
            missing = []
            for request in requests:
                slot = (request.key, len(self.store.attempts(request.key)))
                if not is_settled(request, self.options, self.store) and not self.store.claimed_elsewhere(slot):
                    missing.append((slot, request.most_expensive(self.options)))
            missing = missing[:_MOST_REQUESTS]
            if not missing:
                return None
            most = sum(usd for _, usd in missing)
            if not affordable(most, self.options, self.store):
                raise limit_reached(most, self.options, self.store)
            batch = OpenBatch(
                uuid.uuid4().hex,
                frozenset(slot for slot, _ in missing),
                None,
                most,
                self.options.campaign,
                self.store.path,
            )
            self._note(batch)
        return batch

    def _note(self, batch: OpenBatch) -> None:
        line = {
            "event": "batch",
            "token": batch.token,
            "id": batch.id,
            "slots": sorted(batch.slots),
            "reserved_usd": batch.reserved_usd,
            "campaign": batch.campaign,
        }
        self.store.write([line], durable=True)

    def _over(self, batch: OpenBatch, events: Sequence[dict[str, Any]] = ()) -> None:
        self.store.write([*events, {"event": "batch_done", "token": batch.token, "id": batch.id}], durable=True)

    async def _submit(self, batch: OpenBatch, by_key: dict[str, Request]) -> None:
        import openai

        lines = [
            {
                "custom_id": f"{key}-{attempt}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": by_key[key].body(self.options, attempt),
            }
            for key, attempt in sorted(batch.slots)
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            file = self._sound(
                await self.api.files.create(file=(f"gradsim-{batch.token}.jsonl", content), purpose="batch"), "id"
            )
            # Tried once only: after a timeout the batch may exist, and the next round looks for it by its token.
            created = await self.api.with_options(max_retries=0).batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_METADATA: batch.token},
            )
            batch.id = self._sound(created, "id").id
        except (openai.APIStatusError, InputError):
            self._over(batch)
            raise
        self._note(batch)

    async def _find(self, batch: OpenBatch) -> None:
        """The batch that a killed process had submitted before it could note the id; or nothing was submitted."""
        async for candidate in self.api.batches.list(limit=100):
            if (candidate.metadata or {}).get(_METADATA) == batch.token:
                batch.id = candidate.id
                self._note(batch)
                return
        self._over(batch)

    async def _collect(self, batch: OpenBatch, by_key: dict[str, Request]) -> None:
        """Takes in a batch that is over: its answers, and the texts that were refused for good."""
        assert batch.id is not None
        found = self._sound(await self.api.batches.retrieve(batch.id), "status")
        if found.status not in _OVER:
            return
        outcomes: dict[Slot, Answer | Exception] = {}
        for file_id in (found.output_file_id, found.error_file_id):
            for slot, outcome in await self._read(file_id, by_key) if file_id is not None else ():
                # Lines of other batches, and second lines for one request, say nothing.
                if slot in batch.slots and outcome is not None and not isinstance(outcomes.get(slot), Answer):
                    outcomes[slot] = outcome
        if found.status == "completed":
            missing = TransientError("no line in the output of its batch", billed=False)
            outcomes = {**dict.fromkeys(batch.slots, missing), **outcomes}
        self._take_in(batch, found, outcomes, by_key)

    async def _read(
        self, file_id: str, by_key: Mapping[str, Request]
    ) -> list[tuple[Slot | None, Answer | Exception | None]]:
        """What the lines of a batch's output file say.

        Raises:
            ServiceError: it is something else, a proxy's page perhaps; the batch stays open, since it is paid.
        """
        content = (await self.api.files.content(file_id)).content
        if content.strip() and b'"custom_id"' not in content:
            raise _sentence(invalid(content, self.options, "output of a batch"), self.options)
        return [self._outcome(line, by_key) for line in content.splitlines()]

    def _take_in(
        self, batch: OpenBatch, found: Any, outcomes: Mapping[Slot, Answer | Exception], by_key: Mapping[str, Request]
    ) -> None:
        """Stores what became of the requests of a batch, and raises what concerns them all."""
        works = any(isinstance(one, Answer) for one in outcomes.values()) or self._has_answered(by_key)
        answers = {slot: self._settled(slot, outcome, works) for slot, outcome in outcomes.items()}
        events: list[dict[str, Any]] = []
        for slot, answer in answers.items():
            if answer is not None:
                events.append(answer_event(slot, answer, _request(slot, by_key), self.options))
            elif isinstance(error := outcomes[slot], TransientError):
                events.append({**failed_event(slot, error, self.options), "batch": batch.id})
        with self.store.exclusively():
            # Another process may have taken it in meanwhile: its cost must not be counted twice.
            if any(open_.token == batch.token for open_ in self.store.batches):
                self._over(batch, events)
        for answer in answers.values():
            if answer is not None:
                self.answered(answer)
        faults = [one for one in outcomes.values() if isinstance(one, Exception)]
        for fault in faults:
            if isinstance(fault, InputError) or (isinstance(fault, RefusedError) and not works):
                raise _sentence(fault, self.options)
        if found.status == "failed" or (found.status == "completed" and not works and None in answers.values()):
            why = faults[0].reason if faults and isinstance(faults[0], TransientError) else _why(found)
            raise InputError(
                f"the batch {batch.id} at {self.options.place} brought no answers ({why}); "
                'correct [paraphraser], or set mode = "live" there.'
            )

    def _settled(self, slot: Slot, outcome: Answer | Exception, works: bool) -> Answer | None:
        """What is stored for a request; None where it is to be submitted again. `works`: other texts find answers."""
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(outcome, RejectedError) or (isinstance(outcome, RefusedError) and works):
            return rejected(outcome.reason, self.options)
        if isinstance(outcome, TransientError) and works and self.store.failures(slot) + 1 >= _MOST_FAILURES:
            return rejected(f"no answer: {outcome.reason}", self.options)
        return None

    def _has_answered(self, by_key: Mapping[str, Request]) -> bool:
        return any(answer.finish_reason != REJECTED for key in by_key for answer in self.store.attempts(key))

    def _outcome(self, line: bytes, by_key: Mapping[str, Request]) -> tuple[Slot | None, Answer | Exception | None]:
        """What one line of a batch's output says of which request; None for one that never had its turn."""
        try:
            entry = json.loads(line)
            key, _, attempt = entry["custom_id"].rpartition("-")
            slot: Slot = (key, int(attempt))
            response = entry.get("response") or {}
            status, body = int(response.get("status_code") or 500), response.get("body")
            body = body.encode() if isinstance(body, str) else body
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None, None
        try:
            if status == 200:
                answer = parse_answer(body, _request(slot, by_key), self.options)
                # What others' texts were allowed is not known here.
                return slot, answer if key in by_key else replace(answer, limit=None)
        except (TransientError, RejectedError, RefusedError, InputError) as error:
            return slot, error
        failure = failure_of(body if body else entry, status=status) or Failure(status)
        if failure.codes.startswith("batch_"):  # expired or cancelled with its batch
            return slot, None
        return slot, meaning(failure, self.options)

    def _sound(self, found: Any, *fields: str) -> Any:
        """What the endpoint answers with, if it has these fields.

        Raises:
            InputError, ServiceError: it is something else.
        """
        document = found.to_dict() if hasattr(found, "to_dict") else found
        if isinstance(document, dict) and all(document.get(name) for name in fields):
            return found
        failure = failure_of(document)
        raise _sentence(
            meaning(failure, self.options) if failure else invalid(document, self.options, "batch"), self.options
        )


def _request(slot: Slot, by_key: Mapping[str, Request]) -> Request:
    """The request of a slot; an empty one where a batch answers texts of others who share the store."""
    return by_key.get(slot[0]) or Request(slot[0], "", "")


def _why(batch: Any) -> str:
    errors = (batch.errors.data if batch.errors else None) or []
    return (errors[0].message if errors else None) or f"status {batch.status}"
