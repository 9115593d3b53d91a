"""The queue of traces, with its real thread."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.web.trace_queue import (
    CANCELLED,
    DONE,
    FAILED,
    MOST_WAITING,
    RUNNING,
    WAITING,
    FullError,
    Progress,
    Question,
    TraceQueue,
)

#: Seconds after which something hangs.
HANGS = 30


class Gate:
    """Traces that end when the test lets them."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.at_once = 0
        self.fault: Exception | None = None

    def __call__(self, question: Question, progress: Progress) -> Any:
        self.order.append(question.prompt)
        self.at_once += 1
        try:
            progress(1, 4, "gradients")
            self.began.release()
            assert self.go_on.acquire(timeout=HANGS)
            progress(2, 4, "gradients")
            if self.fault:
                raise self.fault
            assert self.at_once == 1, "one at a time"
            return question.prompt, Path(question.prompt)
        finally:
            self.at_once -= 1


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    for _ in range(2 * MOST_WAITING):
        made.go_on.release()


def ask(queue: TraceQueue, prompt: str) -> Any:
    return queue.ask(Question("demo", prompt))


def until(holds: Callable[[], bool]) -> None:
    for _ in range(HANGS * 100):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it does not come about")


def test_texts_are_traced_one_at_a_time_in_the_order_in_which_they_came(gate: Gate) -> None:
    queue = TraceQueue(gate)
    jobs = [ask(queue, prompt) for prompt in "abc"]
    assert gate.began.acquire(timeout=HANGS)
    assert [job.state for job in jobs] == [RUNNING, WAITING, WAITING] and jobs[0].progress == (1, 4, "gradients")
    assert [queue.ahead_of(job) for job in jobs] == [0, 1, 2]
    assert ask(queue, "b") is jobs[1] and ask(queue, "a") is jobs[0], "the same question is not asked twice"
    for job in jobs:
        gate.go_on.release()
        assert job.ended.wait(HANGS) and job.state == DONE
    assert gate.order == ["a", "b", "c"] and jobs[2].found == ("c", Path("c"))
    assert ask(queue, "a") is not jobs[0], "what is over may be asked again: the trace itself is kept on disk"


def test_when_too_many_wait_the_next_is_told_when_to_come_again(gate: Gate) -> None:
    queue = TraceQueue(gate)
    ask(queue, "first")
    assert gate.began.acquire(timeout=HANGS)
    waiting = [ask(queue, str(number)) for number in range(MOST_WAITING)]
    with pytest.raises(FullError, match=f"{MOST_WAITING} texts are waiting to be traced already; ask again in 10 s"):
        ask(queue, "one more")
    with pytest.raises(FullError):
        queue.check_room(Question("m", "one more"))
    queue.check_room(waiting[0].question)  # which is on its way: one that asks for the same is let in
    queue.cancel(waiting[3])
    assert waiting[3].state == CANCELLED and ask(queue, "one more").state == WAITING
    for _ in range(MOST_WAITING + 1):
        gate.go_on.release()
    until(lambda: len(gate.order) == MOST_WAITING + 1)
    assert "3" not in gate.order


def test_a_running_trace_ends_at_its_next_step_when_it_is_cancelled_and_the_next_begins(gate: Gate) -> None:
    queue = TraceQueue(gate)
    first, second = ask(queue, "a"), ask(queue, "b")
    assert gate.began.acquire(timeout=HANGS)
    queue.cancel(first)
    gate.go_on.release()
    assert first.ended.wait(HANGS) and first.state == CANCELLED and first.found is None
    gate.go_on.release()
    assert second.ended.wait(HANGS) and second.state == DONE
    queue.cancel(second)
    assert second.state == DONE, "what is over cannot be taken back"


@pytest.mark.parametrize("fault", [None, ModuleNotFoundError("no", name="torch")])
def test_what_the_first_trace_would_wait_for_is_prepared_once_and_ahead_of_it(
    fault: Exception | None, gate: Gate
) -> None:
    prepared = threading.Semaphore(0)

    def prepare() -> None:
        prepared.release()
        if fault:
            raise fault

    queue = TraceQueue(gate, prepare)
    assert not prepared.acquire(timeout=0.1), "nobody has shown that he will ask"
    queue.wake()
    assert prepared.acquire(timeout=HANGS) and not gate.order
    queue.wake()
    job = ask(queue, "a")
    gate.go_on.release()
    assert job.ended.wait(HANGS) and job.state == DONE and not prepared.acquire(blocking=False)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (InputError("the prompt is empty; give one."), "the prompt is empty; give one."),
        (ModuleNotFoundError("no", name="torch"), "traces need torch, which is not installed here"),
        (ZeroDivisionError("by zero\nand more"), "ZeroDivisionError: by zero"),
    ],
)
def test_what_fails_tells_why_in_a_sentence_and_holds_up_nobody(fault: Exception, told: str, gate: Gate) -> None:
    queue, gate.fault = TraceQueue(gate), fault
    job = ask(queue, "a")
    gate.go_on.release()
    assert job.ended.wait(HANGS) and job.state == FAILED and job.error is not None and job.error.startswith(told)
    assert "\n" not in job.error
    gate.fault = None
    after = ask(queue, "b")
    gate.go_on.release()
    assert after.ended.wait(HANGS) and after.state == DONE
