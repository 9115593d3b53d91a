"""Texts that wait to be traced: one is traced at a time, and so many may wait that nobody waits for ever."""

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gradsim_assets.core.errors import InputError, ServiceError

if TYPE_CHECKING:
    from gradsim_assets.core.tracing.stored_traces import StoredTrace

_log = logging.getLogger(__name__)

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"

#: Those that nothing follows.
ENDED = (DONE, FAILED, CANCELLED)

#: How many may wait, and how many ended ones are remembered.
MOST_WAITING, _REMEMBERED = 8, 200

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Question:
    """A text that is to be traced; without an answer the model gives its own."""

    model: str
    prompt: str
    answer: str | None = None
    method: str = "cosine"
    against: str = "all"


#: Traces a question, telling its progress, and returns what was found and where it is kept.
Trace = Callable[[Question, Progress], tuple["StoredTrace", Path]]


class FullError(Exception):
    """As many wait as may; `seconds` is about how long until one is through."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"{MOST_WAITING} texts are waiting to be traced already; ask again in {seconds} s.")
        self.seconds = seconds


class _CancelledError(Exception):
    """The one who asked does not want it any more."""


@dataclass
class Job:
    """A question on its way.

    Attributes:
        progress: gradients done, gradients in all, and what is being done.
        error: why it failed, in one sentence.
        found: what was found, and its folder.
    """

    id: str
    question: Question
    state: str = WAITING
    progress: tuple[int, int, str] = (0, 0, "")
    error: str | None = None
    found: "tuple[StoredTrace, Path] | None" = None
    ended: threading.Event = field(default_factory=threading.Event)

    def end(self, state: str, error: str | None = None) -> None:
        """Nothing follows; whoever waits for it is told."""
        self.state, self.error = state, error
        self.ended.set()


class TraceQueue:
    """Jobs in the order in which they were asked for, worked on by one thread, which begins with what is to be prepared."""

    def __init__(self, trace: Trace, prepare: Callable[[], None] = lambda: None) -> None:
        self._trace, self._prepare = trace, prepare
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._seconds = 10.0  # that a trace took lately
        self._worker: threading.Thread | None = None

    def ask(self, question: Question) -> Job:
        """The job of a question: that of the same one where it waits or runs already.

        Raises:
            FullError: too many are waiting.
        """
        with self._changed:
            if known := self._under_way(question):
                return known
            job = Job(uuid.uuid4().hex, question)
            self._jobs[job.id] = job
            self._forget()
            self._start()
            self._changed.notify()
            return job

    def wake(self) -> None:
        """Has everything prepared that the first job would wait for."""
        with self._changed:
            self._start()

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="traces", daemon=True)
            self._worker.start()

    def check_room(self, question: Question) -> None:
        """Raises as `ask`, and asks nothing: who is sent away anyhow costs no more than this."""
        with self._changed:
            self._under_way(question)

    def _under_way(self, question: Question) -> Job | None:
        """The job of the same question, if there is one; FullError if there is none and no room for one."""
        waiting = 0
        for job in self._jobs.values():
            if job.question == question and job.state in (WAITING, RUNNING):
                return job
            waiting += job.state == WAITING
        if waiting >= MOST_WAITING:
            raise FullError(max(1, round(self._seconds)))
        return None

    def job(self, job_id: str) -> Job | None:
        """A job by its id; None for one that there never was or that is long over."""
        with self._changed:
            return self._jobs.get(job_id)

    def ahead_of(self, job: Job) -> int:
        """How many are to be traced before it."""
        with self._changed:
            before = 0
            for other in self._jobs.values():
                if other is job:
                    break
                before += other.state in (WAITING, RUNNING)
            return before if job.state == WAITING else 0

    def cancel(self, job: Job) -> None:
        """Takes a waiting job out; a running one ends at its next step."""
        with self._changed:
            if job.state == WAITING:
                job.end(CANCELLED)
            elif job.state == RUNNING:
                job.state = CANCELLED  # seen by its own thread

    def _forget(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.ended.is_set()]
        for job_id in ended[: max(0, len(ended) - _REMEMBERED)]:
            del self._jobs[job_id]

    def _work(self) -> None:
        with suppress(Exception):  # the first job meets it again, and tells whoever asked
            self._prepare()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(job.state == WAITING for job in self._jobs.values()))
                job = next(job for job in self._jobs.values() if job.state == WAITING)
                job.state = RUNNING
            started = time.monotonic()
            self._run(job)
            self._seconds = time.monotonic() - started

    def _run(self, job: Job) -> None:
        def progress(done: int, total: int, what: str) -> None:
            if job.state == CANCELLED:
                raise _CancelledError
            job.progress = (done, total, what)

        try:
            job.found = self._trace(job.question, progress)
        except _CancelledError:
            job.end(CANCELLED)
        except (InputError, ServiceError) as error:
            job.end(FAILED, str(error))
        except ModuleNotFoundError as error:
            job.end(
                FAILED, f"traces need {error.name}, which is not installed here; serve them where gradsim[compute] is."
            )
        except Exception as error:
            _log.exception("a trace failed")
            told = getattr(error, "description", None) or f"{type(error).__name__}: {error}"
            job.end(FAILED, str(told).splitlines()[0])
        else:
            job.end(CANCELLED if job.state == CANCELLED else DONE)
