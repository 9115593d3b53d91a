"""What may be tried again: a list of what can heal, since everything else is there again at the next try."""

import errno
import re
import sys

from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.models.revisions import may_pass
from gradsim_assets.core.room import full_disk

#: What a system says of a disk, a network or a memory that others hold, or that comes back.
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.ESTALE,
}

#: How polars tells such a number: its errors carry none.
_NUMBER = re.compile(r"\(os error (\d+)\)")

#: Kinds of errors of databases and object stores that are down or busy, by name: their packages need not be there.
_BUSY = {"OperationalError", "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError"}

#: The same out of polars, which reads object stores itself.
_UNREACHED = re.compile(r"error sending request|operation timed out|connection (refused|reset|closed)", re.IGNORECASE)


def may_heal(error: BaseException) -> bool:
    """Whether the same work may succeed at another try: a service or the network failed, or others held memory or a disk.

    An error stands for what led to it, unless it is bad input, whose sentence is the last word.
    """
    if full_disk(error):  # SQLite calls that operational
        return False
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, InputError):
        if _heals(seen):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def _heals(error: BaseException) -> bool:
    if isinstance(error, ServiceError | MemoryError | ConnectionError | TimeoutError):
        return True
    if _BUSY & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if isinstance(error, OSError) and _number(error) in _PASSING:
        return True
    return _torch_ran_out(error) or _reached_nothing(error) or may_pass(error)


def _number(error: OSError) -> int | None:
    told = _NUMBER.search(str(error))
    return error.errno or (int(told[1]) if told else None)


def _reached_nothing(error: BaseException) -> bool:
    return type(error).__module__.startswith("polars") and bool(_UNREACHED.search(str(error)))


def _torch_ran_out(error: BaseException) -> bool:
    if "torch" not in sys.modules:  # nothing of it can have failed, and a control plane has none
        return False
    from gradsim_assets.core.memory import ran_out

    return ran_out(error)
