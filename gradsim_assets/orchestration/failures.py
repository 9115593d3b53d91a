"""What is retried and what is not, and how a failed step says why."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import dagster as dg

from gradsim_assets.core.errors import InputError, ServiceError, first_line
from gradsim_assets.core.healing import may_heal
from gradsim_assets.core.room import full_disk

#: For steps that may fail for what heals: a service that does not answer, memory that others hold, a machine that vanishes
#: under them (an evicted pod, a reclaimed spot node). What `core.healing` does not know to heal is not retried.
RETRIES = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL)

Step = TypeVar("Step", bound=Callable[..., Any])


def fails_in_one_sentence(step: Step) -> Step:
    """Makes whatever a function or generator raises the failure of its step, which says why in one sentence.

    What can heal is left to the step's retry policy, and told in the same way by its last try. Everything else is a mistake
    of the input or of the program, which is there again at the next try; that may take hours to come to it.
    """
    if not inspect.isgeneratorfunction(step):
        return _in_one_sentence()(step)

    @wraps(step)
    def generate(*arguments: Any, **named: Any) -> Iterator[Any]:
        with _in_one_sentence():
            yield from step(*arguments, **named)

    return generate  # type: ignore[return-value]  # it takes and yields what the step does


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    try:
        yield
    except dg.Failure:
        raise
    except Exception as error:
        if may_heal(error) and _is_tried_again():
            raise
        raise dg.Failure(_sentence(error), allow_retries=False) from error


def _sentence(error: Exception) -> str:
    """What a user reads: errors that were raised for them speak for themselves."""
    if isinstance(error, InputError | ServiceError):
        return " ".join(str(error).split())
    return full_disk(error) or first_line(error)


def _is_tried_again() -> bool:
    """Whether the step at work has tries left; Dagster says of the last one no more than that it was."""
    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # no step is at work
        return False
    policy = context.op_def.retry_policy
    return policy is not None and context.retry_number < policy.max_retries
