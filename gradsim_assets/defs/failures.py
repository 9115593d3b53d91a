"""What is retried and what is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from gradsim_assets.core.errors import InputError, ServiceError

#: For steps that may fail for what heals: a service that does not answer, memory that others hold, a machine that vanishes
#: under them (an evicted pod, a reclaimed spot node). What `input_errors` tells apart is not retried.
RETRIES = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL)

#: A mistake of the program is there again at the next try, which may take hours to come to it.
_MISTAKES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError)


@contextmanager
def input_errors() -> Iterator[None]:
    """Turns what trying again would not heal into a Dagster failure that is not retried: bad input, with its own sentence."""
    try:
        yield
    except InputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except _MISTAKES as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


@contextmanager
def unanswered() -> Iterator[None]:
    """Turns what an observation cannot find out into a Dagster failure with its own sentence; the next one asks again."""
    try:
        yield
    except (InputError, ServiceError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
