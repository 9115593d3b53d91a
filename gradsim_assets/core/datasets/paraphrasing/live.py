"""Asking for many texts at once: bounded concurrency, retries, and no answer that is not stored before it counts."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.paraphrasing.answer_checks import is_final
from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore, Slot
from gradsim_assets.core.datasets.paraphrasing.budget import affordable, limit_reached
from gradsim_assets.core.datasets.paraphrasing.chat_service import client, exchange
from gradsim_assets.core.datasets.paraphrasing.errors import RejectedError, TransientError
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request
from gradsim_assets.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    import openai

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0

#: Tries until an address that has led nowhere, not once in the run, is taken to be wrong.
_MISDIRECTED_TRIES = 4

_WAIT_SECONDS = 0.05

_IN_BATCH = 'some of the texts wait in a batch that is paid for; set mode = "batch" in [paraphraser] until it has been taken in.'


async def ask_all(
    requests: Sequence[Request],
    options: ParaphraserOptions,
    store: AnswerStore,
    answered: Callable[[Answer], None],
    settled: Callable[[], None],
) -> None:
    """Sees to it that the store holds, for every text, a sound answer or all attempts.

    `answered` is called for every answer that was paid, `settled` for every text that is done. After a fault that concerns all texts nothing new is asked,
    requests in flight are awaited and stored, and then the fault is raised.

    Raises:
        InputError: key, model or address are wrong, or the spending limit would be crossed.
        ServiceError: one request found no answer within the deadline.
    """
    async with client(options) as api:
        asker = _Asker(api, options, store, answered)
        queue = iter(requests)

        async def work() -> None:
            for request in queue:
                if asker.stop is not None:
                    return
                await asker.settle(request)
                if asker.stop is None:
                    settled()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(options.concurrency, len(requests))):
                group.create_task(work())
        await asker.journal.synced()
    if asker.stop is not None:
        raise asker.stop


class _Asker:
    def __init__(
        self,
        api: "openai.AsyncOpenAI",
        options: ParaphraserOptions,
        store: AnswerStore,
        answered: Callable[[Answer], None],
    ) -> None:
        self.api, self.options, self.store, self.answered = api, options, store, answered
        self.stop: Exception | None = None
        self.in_flight = 0
        self.reached = False
        self.paused_until = 0.0
        self.journal = _Journal(store)

    async def settle(self, request: Request) -> None:
        """Asks for one text until an answer passes the checks or the attempts are spent."""
        for attempt in range(self.options.attempts):
            answer = self.store.answer((request.key, attempt)) or await self._obtain(request, attempt)
            if answer is None or is_final(request, answer):
                return

    async def _obtain(self, request: Request, attempt: int) -> Answer | None:
        """The answer of one attempt, tried again in the face of faults; None when the run stops."""
        slot, deadline = (request.key, attempt), time.monotonic() + self.options.deadline_seconds
        tries = 0
        while True:
            try:
                if (found := await self._claim(slot, request)) is not None or self.stop is not None:
                    return found
                return await self._try(slot, request)
            except TransientError as error:
                tries += 1
                delay = self._delay(error, tries)
                self.stop = self.stop or self._hopeless(error, tries, time.monotonic() + delay > deadline)
            except (InputError, OSError) as error:
                self.stop = self.stop or error
            if self.stop is not None:
                return None
            await asyncio.sleep(delay)

    def _hopeless(self, error: TransientError, tries: int, too_late: bool) -> Exception | None:
        if error.misdirected and not self.reached and (tries >= _MISDIRECTED_TRIES or too_late):
            return InputError(error.misdirected)
        if too_late:
            return ServiceError(
                f"the chat service at {self.options.place} has failed for {self.options.deadline_seconds:g} s "
                f"(last {error.reason}); run again later: answers that have arrived are not asked for again."
            )
        return None

    def _delay(self, error: TransientError, tries: int) -> float:
        backoff = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (tries - 1))
        # Between half and all of it: requests that failed together do not come back together.
        delay = backoff * (0.5 + random.random() / 2)
        if error.retry_after is None:
            return delay
        # What one request is told to wait holds for all: asking on would only be refused.
        self.paused_until = max(self.paused_until, time.monotonic() + error.retry_after)
        return error.retry_after + delay / 4

    async def _claim(self, slot: Slot, request: Request) -> Answer | None:
        """Reserves the most that the request can cost; the answer instead, if another process has got it meanwhile."""
        most = request.most_expensive(self.options)
        while self.stop is None:
            if (wait := self.paused_until - time.monotonic()) > 0:
                await asyncio.sleep(wait)
                continue
            with self.store.exclusively():
                if (found := self.store.answer(slot)) is not None:
                    return found
                if self.store.in_batch(slot):
                    raise InputError(_IN_BATCH)
                elsewhere = self.store.claimed_elsewhere(slot)
                if not elsewhere and affordable(most, self.options, self.store):
                    self._write("sent", slot, reserved_usd=most)
                    return None
            # Reservations are generous: what is in flight will mostly cost less than it holds back.
            if not elsewhere and not self.in_flight:
                raise limit_reached(most, self.options, self.store)
            await asyncio.sleep(_WAIT_SECONDS)
        return None

    async def _try(self, slot: Slot, request: Request) -> Answer:
        self.in_flight += 1
        try:
            answer = await exchange(self.api, request, self.options, slot[1])
        except RejectedError as error:
            answer = Answer("", REJECTED, error.reason, 0, 0, 0.0, self.options.model)
        except TransientError as error:
            self._write("failed", slot, reason=error.reason, billed=error.billed)
            raise
        except InputError:
            self._write("failed", slot, reason="refused", billed=False)
            raise
        finally:
            self.in_flight -= 1
        self.reached = True
        self.journal.put(answer_event(slot, answer, request, self.options))
        self.answered(answer)
        return answer

    def _write(self, event: str, slot: Slot, **more: Any) -> None:
        self.store.write(
            [{"event": event, "key": slot[0], "attempt": slot[1], "campaign": self.options.campaign, **more}],
            durable=False,
        )


def answer_event(slot: Slot, answer: Answer, request: Request, options: ParaphraserOptions) -> dict[str, Any]:
    """The journal's line for an answer; text and way of asking are there for the reader."""
    return {
        "event": "answer",
        "key": slot[0],
        "attempt": slot[1],
        "campaign": options.campaign,
        "service": options.service,
        "temperature": options.temperature,
        "seed": None if options.seed is None else options.seed + slot[1],
        "text": request.text,
        "answer": asdict(answer),
    }


class _Journal:
    """Writes answers at once, where they survive a kill, and syncs the disk in a thread, which a power cut calls for.

    Requests do not wait for the disk: answers that arrive while it syncs share the next sync.
    """

    def __init__(self, store: AnswerStore) -> None:
        self.store = store
        self.unsynced = False
        self.task: asyncio.Task[None] | None = None

    def put(self, event: dict[str, Any]) -> None:
        self.store.write([event], durable=False)
        self.unsynced = True
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._sync())

    async def synced(self) -> None:
        """Returns when all that was put is on disk."""
        if self.task is not None:
            await self.task

    async def _sync(self) -> None:
        while self.unsynced:
            self.unsynced = False
            await asyncio.to_thread(self.store.sync)
