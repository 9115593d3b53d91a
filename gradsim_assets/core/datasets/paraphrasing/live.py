"""Asking for many texts at once: bounded concurrency, retries, and no answer that is not stored before it counts."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.paraphrasing.answer_checks import is_enough, only_reasoning
from gradsim_assets.core.datasets.paraphrasing.answer_store import REJECTED, Answer, AnswerStore, Slot
from gradsim_assets.core.datasets.paraphrasing.budget import affordable, limit_reached
from gradsim_assets.core.datasets.paraphrasing.chat_service import client, exchange
from gradsim_assets.core.datasets.paraphrasing.errors import RefusedError, RejectedError, TransientError
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.request import Request
from gradsim_assets.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    import openai

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0

#: Tries (or texts) until an address or a way of asking that has led nowhere, not once in the run, is taken to be wrong.
_MISDIRECTED_TRIES = 4

_WAIT_SECONDS = 0.05

#: A wait looks so often whether the run has stopped meanwhile.
_LONGEST_NAP = 0.5

_IN_BATCH = 'some of the texts wait in a batch that is paid for; set mode = "batch" in [paraphraser] until it has been taken in.'


async def ask_all(
    requests: Sequence[Request],
    options: ParaphraserOptions,
    store: AnswerStore,
    answered: Callable[[Answer], None],
    settled: Callable[[], None],
) -> None:
    """Sees to it that the store holds, for every text, a sound answer or all attempts.

    `answered` is called for every answer that was paid, `settled` for every text that is done. After a fault that concerns
    all texts nothing new is asked, requests in flight are awaited and stored, and then the fault is raised.

    Raises:
        InputError: key, model, address or a field are wrong, or the spending limit would be crossed.
        ServiceError: one request found no answer within the deadline, nor did any other meanwhile.
    """
    async with client(options) as api:
        asker = _Asker(api, requests, options, store, answered)
        queue = deque(requests)

        async def work() -> None:
            while queue and asker.stop is None:
                request = queue.popleft()
                if await asker.settle(request):
                    settled()
                else:
                    queue.append(request)

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
        requests: Sequence[Request],
        options: ParaphraserOptions,
        store: AnswerStore,
        answered: Callable[[Answer], None],
    ) -> None:
        self.api, self.requests, self.options, self.store, self.answered = api, requests, options, store, answered
        self.stop: Exception | None = None
        self.in_flight = 0
        self.answers = 0
        self.refused: set[str] = set()
        self.paused_until = 0.0
        self.journal = _Journal(store)

    async def settle(self, request: Request) -> bool:
        """Asks for one text until an answer passes the checks or the attempts are spent.

        False when the run stops, and for a text that was refused before any was answered: it is to be asked for later,
        when others have shown whether its fault is its own.
        """
        while request.key in self.refused and not self.answers and self.in_flight and self.stop is None:
            await asyncio.sleep(_WAIT_SECONDS)
        found = self.store.attempts(request.key)
        while not is_enough(request, found, self.options):
            answer = await self._obtain(request, len(found))
            if answer is None:
                return False
            found.append(answer)
            # Every answer would be as empty, and is paid.
            self.stop = self.stop or only_reasoning(self.requests, self.options, self.store)
        return True

    async def _obtain(self, request: Request, attempt: int) -> Answer | None:
        """The answer of one attempt, tried again in the face of faults; None when the run stops or the text is put off."""
        slot, started = (request.key, attempt), time.monotonic()
        before, tries = self.answers, 0
        while True:
            try:
                if (found := await self._claim(slot, request)) is not None or self.stop is not None:
                    return found
                return await self._try(slot, request)
            except RefusedError as error:
                if self.answers:
                    return self._reject(slot, request, error.reason)
                again = request.key in self.refused
                self.refused.add(request.key)
                if again or len(self.refused) >= min(_MISDIRECTED_TRIES, len(self.requests)):
                    self.stop = self.stop or InputError(error.sentence)
                return None
            except TransientError as error:
                tries += 1
                delay = self._delay(error, tries)
                late = time.monotonic() + delay > started + self.options.deadline_seconds
                if late and error.text_alone and self.answers > before:
                    return self._reject(slot, request, f"no answer: {error.reason}")
                self.stop = self.stop or self._hopeless(error, tries, late)
            except (InputError, OSError) as error:
                self.stop = self.stop or error
            if self.stop is not None:
                return None
            await self._sleep(delay)

    def _hopeless(self, error: TransientError, tries: int, late: bool) -> Exception | None:
        if error.misdirected and not self.answers and (tries >= _MISDIRECTED_TRIES or late):
            return InputError(error.misdirected)
        if late:
            deadline, wait = self.options.deadline_seconds, error.retry_after or 0
            told = (
                f"asks to wait {wait:.0f} s, longer than the deadline of {deadline:g} s"
                if wait > deadline
                else f"has failed for {deadline:g} s"
            )
            return ServiceError(
                f"the chat service at {self.options.place} {told} (last {error.reason}); run again later: answers that have "
                "arrived are not asked for again."
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

    async def _sleep(self, seconds: float) -> None:
        """Waits, but no longer than until the run stops."""
        until = time.monotonic() + seconds
        while self.stop is None and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LONGEST_NAP))

    async def _claim(self, slot: Slot, request: Request) -> Answer | None:
        """Reserves the most that the request can cost; the answer instead, if another process has got it meanwhile."""
        most = request.most_expensive(self.options)
        while self.stop is None:
            if (wait := self.paused_until - time.monotonic()) > 0:
                await self._sleep(wait)
                continue
            with self.store.exclusively():
                if (found := self.store.answer(slot)) is not None:
                    return found
                if self.store.in_batch(slot):
                    raise InputError(_IN_BATCH)
                elsewhere = self.store.claimed_elsewhere(slot)
                if not elsewhere and affordable(most, self.options, self.store):
                    sent = {"event": "sent", "key": slot[0], "attempt": slot[1], "campaign": self.options.campaign}
                    self.store.write([{**sent, "reserved_usd": most}], durable=False)
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
            return self._reject(slot, request, error.reason)
        except TransientError as error:
            self.store.write([failed_event(slot, error, self.options)], durable=False)
            raise
        except (InputError, RefusedError):
            self.store.write([failed_event(slot, TransientError("refused", billed=False), self.options)], durable=False)
            raise
        finally:
            self.in_flight -= 1
        self.answers += 1
        return self._keep(slot, request, answer)

    def _reject(self, slot: Slot, request: Request, reason: str) -> Answer:
        """Keeps that a text is not taken, so that it is not asked for again."""
        return self._keep(slot, request, rejected(reason, self.options))

    def _keep(self, slot: Slot, request: Request, answer: Answer) -> Answer:
        self.journal.put(answer_event(slot, answer, request, self.options))
        self.answered(answer)
        return answer


def rejected(reason: str, options: ParaphraserOptions) -> Answer:
    """What stands in the store for a text that the service does not take."""
    return Answer("", REJECTED, reason, 0, 0, 0.0, options.model)


def failed_event(slot: Slot, error: TransientError, options: ParaphraserOptions) -> dict[str, Any]:
    """The journal's line for a try that brought nothing."""
    claim = {"event": "failed", "key": slot[0], "attempt": slot[1], "campaign": options.campaign}
    return {**claim, "reason": error.reason, "billed": error.billed}


def answer_event(slot: Slot, answer: Answer, request: Request, options: ParaphraserOptions) -> dict[str, Any]:
    """The journal's line for an answer; text and way of asking are there for the reader."""
    return {
        "event": "answer",
        "key": slot[0],
        "attempt": slot[1],
        "campaign": options.campaign,
        "service": options.service,
        "temperature": options.temperature,
        "seed": None if options.first_seed is None else options.first_seed + slot[1],
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
