"""What can go wrong without the program being at fault."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the thing and the mend.

    The command line prints it without a traceback, and assets turn it into a Dagster failure that is not retried.
    """


class ServiceError(RuntimeError):
    """A service (the hub, a chat service) fails or cannot be reached: the same call may succeed later, and is retried."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
