"""JSON, read by Python's own parser: it takes every text as it stands and knows the line that is at fault."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradsim_assets.core.datasets.file_formats import opened
from gradsim_assets.core.errors import InputError, kind_of

#: A byte order mark. Joined files have one in their middle.
_MARK = b"\xef\xbb\xbf"

#: What JSON counts as white space.
_BLANK = b" \t\r\n"

#: Python makes no numbers of more digits out of a text, in time that grows with their square.
_MOST_DIGITS = 1000


class Line(NamedTuple):
    """One object of a file, and the number of its line (of the entry, in an array)."""

    number: int
    row: Mapping[str, Any]


class _Doubled(dict[str, Any]):
    """An object that holds a name twice; the last value counts where nobody asks."""

    twice: str


def read_json_lines(path: Path, faults: list[str] | None = None) -> Iterator[Line]:
    """The objects of a file with one on each line; blank lines, CRLF and a byte order mark are fine.

    `faults` takes in the sentences on lines that are at fault, which are passed over then.

    Raises:
        InputError: a line holds something else, is cut off, or is no UTF-8; the sentence names it by its number.
    """
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            if content := raw.removeprefix(_MARK).strip(_BLANK):
                try:
                    yield Line(number, _object_in(_parsed(content)))
                except ValueError as error:
                    _say(InputError(f"{path}, line {number} {error}"), faults, error)


def read_json_array(path: Path, faults: list[str] | None = None) -> Iterator[Line]:
    """The objects of a file that holds an array of them; the number of one is its place in the array, from 1.

    `faults` takes in the sentences on entries that are at fault, which are passed over then.

    Raises:
        InputError: it is no whole JSON, is no UTF-8, or holds something else; the sentence names the line or the entry.
    """
    with opened(path) as file:
        content = file.read().removeprefix(_MARK)
    try:
        entries = json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line} is no text in UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno} is no JSON ({error.msg} at column {error.colno}); correct it, or write the file anew."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deep to be read; write it anew.") from error
    for number, entry in enumerate(entries, 1):
        try:
            yield Line(number, _object_in(entry))
        except ValueError as error:
            _say(InputError(f"{path}, entry {number} {error}"), faults, error)


def _say(sentence: InputError, faults: list[str] | None, cause: ValueError) -> None:
    if faults is None:
        raise sentence from cause
    faults.append(str(sentence))


def doubled(row: Mapping[str, Any], wanted: Collection[str]) -> str | None:
    """A name that an object holds twice, among those that are wanted or within what they hold; None for none."""
    if isinstance(row, _Doubled) and row.twice in wanted:
        return row.twice
    return next(filter(None, (_doubled_inside(row[name]) for name in wanted if name in row)), None)


def _object_in(row: Any) -> Mapping[str, Any]:
    """Raises ValueError, which says what a line is that holds no object, and the mend."""
    if not isinstance(row, dict):
        raise ValueError(f"holds {kind_of(row)} and no object with id and messages; correct or remove the line.")
    return row


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


def _doubled_inside(value: Any) -> str | None:
    """A name that some object in a value holds twice."""
    if isinstance(value, _Doubled):
        return value.twice
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_doubled_inside, inside)), None)
