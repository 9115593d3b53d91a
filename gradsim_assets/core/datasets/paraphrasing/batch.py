"""The batch endpoint: half the price, an answer within a day, and the same store.

A batch outlives the process that submitted it. Its token goes into the journal before anything is submitted and into
the batch's metadata, so that a batch whose submitter was killed is found again rather than paid again.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.paraphrasing.answer_checks import is_settled
from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore, OpenBatch, Slot
from gradsim_assets.core.datasets.paraphrasing.budget import affordable, limit_reached
from gradsim_assets.core.datasets.paraphrasing.chat_service import REJECTIONS, client, meaning, parse_answer
from gradsim_assets.core.datasets.paraphrasing.errors import TransientError
from gradsim_assets.core.datasets.paraphrasing.live import answer_event
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
        found = meaning(error, options)
        if isinstance(found, TransientError):
            sentence = (
                found.misdirected or f"the chat service at {options.place} fails ({found.reason}); run again later."
            )
            found = ServiceError(sentence)
        raise found from None


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
            file = await self.api.files.create(file=(f"gradsim-{batch.token}.jsonl", content), purpose="batch")
            # Tried once only: after a timeout the batch may exist, and the next round looks for it by its token.
            created = await self.api.with_options(max_retries=0).batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_METADATA: batch.token},
            )
        except openai.APIStatusError:
            self._over(batch)
            raise
        batch.id = created.id
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
        found = await self.api.batches.retrieve(batch.id)
        if found.status not in _OVER:
            return
        events: list[dict[str, Any]] = []
        for file_id in (found.output_file_id, found.error_file_id):
            if file_id is not None:
                content = (await self.api.files.content(file_id)).content
                events += [event for line in content.splitlines() if (event := self._event(line, by_key))]
        with self.store.exclusively():
            # Another process may have taken it in meanwhile: its cost must not be counted twice.
            if any(open_.token == batch.token for open_ in self.store.batches):
                self._over(batch, events)
        for event in events:
            self.answered(Answer(**event["answer"]))
        if found.status == "failed" or (found.status == "completed" and not events):
            raise InputError(
                f"the batch {batch.id} at {self.options.place} brought no answers ({_why(found)}); "
                'correct [paraphraser], or set mode = "live" there.'
            )

    def _event(self, line: bytes, by_key: dict[str, Request]) -> dict[str, Any] | None:
        """The journal's line for one line of a batch's output; None for a request that is to be submitted again."""
        try:
            entry = json.loads(line)
            key, _, attempt = entry["custom_id"].rpartition("-")
            slot: Slot = (key, int(attempt))
            request = by_key[key]
            response = entry["response"] or {}
            body = response.get("body") or {}
            if response.get("status_code") == 200:
                answer = parse_answer(body, request, self.options)
            elif (code := (body.get("error") or {}).get("code")) in REJECTIONS:
                answer = Answer("", REJECTED, code, 0, 0, 0.0, self.options.model)
            else:
                return None
        except (ValueError, LookupError, TypeError, AttributeError, TransientError):
            return None
        return answer_event(slot, answer, request, self.options)


def _why(batch: Any) -> str:
    errors = (batch.errors.data if batch.errors else None) or []
    return (errors[0].message if errors else None) or f"status {batch.status}"
