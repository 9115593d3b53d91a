"""The one exception that means "the input is at fault, not the program"."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the thing and the mend.

    The command line prints it without a traceback, and assets turn it into a Dagster failure that is not retried.
    """
