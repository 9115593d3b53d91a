"""What can go wrong without the program being at fault, and the words for it."""

from typing import Any


class InputError(ValueError):
    """Bad input, told in one sentence that names the thing and the mend.

    The command line prints it without a traceback, and assets turn it into a Dagster failure that is not retried. What a
    name or text that it quotes holds besides printable characters (line ends, half characters) is shown by its code.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__("".join(map(_printable, sentence)))


class ServiceError(RuntimeError):
    """A service (the hub, a chat service) fails or cannot be reached: the same call may succeed later, and is retried."""


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def kind_of(value: Any) -> str:
    """What a value out of a file is, in a user's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = ((int | float, "a number"), (str, "text"), (list | tuple, "a list"), (dict, "an object"))
    return next((kind for types, kind in kinds if isinstance(value, types)), f"a {type(value).__name__}")


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() and character not in "\r\n" else character.encode("unicode_escape").decode()
