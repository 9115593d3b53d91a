"""What a file holds, by its first bytes: the formats that samples are read from, and what is said of all others."""

import json
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from gradsim_assets.core.errors import InputError


class Format(Enum):
    """A format that samples are read from."""

    PARQUET = "Parquet"
    JSON_LINES = "JSON lines"
    ARROW_FILE = "an Arrow file"
    ARROW_STREAM = "an Arrow stream"

    @property
    def suffix(self) -> str:
        """How the name of such a file ends."""
        return {"PARQUET": ".parquet", "JSON_LINES": ".jsonl"}.get(self.name, ".arrow")


#: So much of a file tells its format.
_HEAD_BYTES = 65536

_OURS = {
    b"PAR1": Format.PARQUET,
    b"ARROW1": Format.ARROW_FILE,
    b"\xff\xff\xff\xff": Format.ARROW_STREAM,
}

_UNPACK = "unpack it and name the file that comes out"
_AS_UTF8 = "save it as UTF-8"
_AS_ROWS = 'write every row as a line {"id": ..., "messages": [...]} of a .jsonl file'

#: How other files begin, what that is, and the mend.
_OTHERS = (
    (b"\x1f\x8b", "is compressed by gzip", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", _UNPACK),
    (b"\xfd7zXZ\0", "is compressed by xz", _UNPACK),
    (b"BZh", "is compressed by bzip2", _UNPACK),
    (b"\x04\x22\x4d\x18", "is compressed by lz4", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (b"PK\x03\x04", "is a zip archive (or an Excel sheet)", f"{_UNPACK}, or {_AS_ROWS}"),
    (b"SQLite format 3\0", "is a SQLite database", _AS_ROWS),
    (b"Obj\x01", "is an Avro file", _AS_ROWS),
    (b"ORC", "is an ORC file", _AS_ROWS),
    (b"FEA1", "is a Feather file of version 1", _AS_ROWS),
    (b"\x89HDF", "is an HDF5 file", _AS_ROWS),
    (b"\xff\xfe\0\0", "is text in UTF-32", _AS_UTF8),
    (b"\0\0\xfe\xff", "is text in UTF-32", _AS_UTF8),
    (b"\xff\xfe", "is text in UTF-16", _AS_UTF8),
    (b"\xfe\xff", "is text in UTF-16", _AS_UTF8),
    (b"version https://git-lfs", "is a pointer of git-lfs", "run `git lfs pull` in its folder"),
)

#: Layouts of other tools by columns that they have.
_LAYOUTS = (
    ({"conversations"}, "the layout of ShareGPT"),
    ({"instruction", "output"}, "the layout of Alpaca"),
    ({"prompt", "chosen"}, "a layout of preferences"),
    ({"prompt", "completion"}, "a layout of prompts and completions"),
    ({"prompt", "response"}, "a layout of prompts and responses"),
    ({"question", "answer"}, "a layout of questions and answers"),
    ({"text"}, "a layout of plain texts"),
)

#: Names in the first line of a CSV file of samples.
_HEADINGS = {"id", "messages", "role", "content"}.union(*(names for names, _ in _LAYOUTS))


def format_of(path: Path) -> Format:
    """The format of a file whose name says the same.

    Raises:
        InputError: it holds something else, which the sentence names with the mend; or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); correct the path or its permissions.") from error
    found = next((one for magic, one in _OURS.items() if head.startswith(magic)), None)
    if found is None:
        what, mend = next(
            ((what, mend) for magic, what, mend in _OTHERS if head.startswith(magic)), _text(head, path.suffix.lower())
        )
        if what:
            raise InputError(f"{path} {what}; {mend}.")
        found = Format.JSON_LINES
    if path.suffix.lower() != found.suffix:
        raise InputError(f"{path} holds {found.value}; rename it so that it ends in {found.suffix}.")
    return found


def layout_of(columns: Iterable[str]) -> str | None:
    """The layout of another tool that a file has these columns of; None for none that is known."""
    return next((layout for names, layout in _LAYOUTS if names <= set(columns)), None)


def _text(head: bytes, suffix: str) -> tuple[str, str]:
    """What a text is and the mend; empty for one that may be JSON lines, whose own reader names the line at fault."""
    if suffix in (".parquet", ".arrow") and not head.startswith(b"{"):
        return f"is no file of the kind {suffix[1:]}, or its beginning is lost", "write or copy it anew"
    if b"\0" in head[:4]:
        return "is no text in UTF-8 (it begins with bytes of 0, as UTF-16 does, or a file that was never written)", (
            f"{_AS_UTF8} or write it anew"
        )
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    first = text.partition("\n")[0].rstrip()
    if not text:
        return "holds blank lines alone", "write it anew or name another file"
    if text.startswith("["):
        return "is a JSON array", "write one object a line, into a .jsonl file"
    if _spans_lines(text, first, suffix):
        return "is one JSON document over several lines", "write one object a line, into a .jsonl file"
    if re.match(r"<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "is a page of HTML or XML", "download the file itself"
    if suffix in (".csv", ".tsv") or _is_header(first):
        return "is a CSV file", _AS_ROWS
    if suffix != Format.JSON_LINES.suffix and not text.startswith("{"):
        return "is of no known kind", "use a .parquet, .jsonl or .arrow file"
    return "", ""


def _spans_lines(text: str, first: str, suffix: str) -> bool:
    """Whether a text begins a JSON object that goes on after its first line."""
    if not first.startswith("{") or "\n" not in text:
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return first == "{" or suffix == ".json"
    return False


def _is_header(line: str) -> bool:
    names = {name.strip(" \"'").lower() for name in re.split(r"[,;\t|]", line)}
    return len(names) > 1 and bool(names & _HEADINGS) and not line.startswith("{")
