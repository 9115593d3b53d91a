"""JSON lines, each read by Python's own parser: it takes every text as it stands and knows the line that is at fault."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradsim_assets.core.errors import InputError, kind_of

#: A byte order mark. Joined files have one in their middle.
_MARK = b"\xef\xbb\xbf"

#: What JSON counts as white space.
_BLANK = b" \t\r\n"

#: Python makes no numbers of more digits out of a text, in time that grows with their square.
_MOST_DIGITS = 1000


@dataclass(frozen=True)
class Line:
    """One object of a file: the number of its line, all of its names, and the values of those that were asked for."""

    number: int
    names: tuple[str, ...]
    values: Mapping[str, Any]


class _Doubled(dict[str, Any]):
    """An object that holds a name twice; the last value counts where nobody asks."""

    twice: str


def read_json_lines(path: Path, wanted: Sequence[str]) -> Iterator[Line]:
    """The objects of a file with one on each line; blank lines, CRLF and a byte order mark are fine.

    Raises:
        InputError: a line holds something else, is cut off, or is no UTF-8; the sentence names it by its number.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if content := raw.removeprefix(_MARK).strip(_BLANK):
                try:
                    yield _line(number, content, wanted)
                except ValueError as error:
                    raise InputError(f"{path}, line {number} {error}") from error


def _line(number: int, content: bytes, wanted: Sequence[str]) -> Line:
    """Raises ValueError, which says what the line is and the mend."""
    row = _parsed(content)
    if not isinstance(row, dict):
        raise ValueError(f"holds {kind_of(row)} and no object with id and messages; correct or remove the line.")
    values = {name: row[name] for name in wanted if name in row}
    if doubled := _doubled(row, wanted) or next(filter(None, map(_doubled_inside, values.values())), None):
        raise ValueError(f"names {doubled} twice in one object; keep one of the two.")
    return Line(number, tuple(row), values)


def _parsed(content: bytes) -> Any:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is no text in UTF-8 (byte {content[error.start]:#04x} at column {error.start + 1}); save the file as UTF-8 "
            "(it may be in Latin-1 or Windows-1252)."
        ) from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        beginning = "" if text.startswith("{") else f"; it begins with {text[:20]!r}"
        raise ValueError(
            f"is no whole JSON object ({error.msg} at column {error.colno}{beginning}); write one object on each line, and "
            "correct or remove this one."
        ) from error
    except RecursionError as error:
        raise ValueError("is nested too deep to be read; correct or remove the line.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled = _Doubled(found)
    names = [name for name, _ in pairs]
    doubled.twice = next(name for place, name in enumerate(names) if name in names[:place])
    return doubled


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _doubled(row: Mapping[str, Any], wanted: Sequence[str]) -> str | None:
    return row.twice if isinstance(row, _Doubled) and row.twice in wanted else None


def _doubled_inside(value: Any) -> str | None:
    """A name that some object in a value holds twice."""
    if isinstance(value, _Doubled):
        return value.twice
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_doubled_inside, inside)), None)
