"""What a file holds, by its first bytes: the formats that samples are read from, and what is said of all others."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, cast

from gradsim_assets.core.datasets.layouts import KNOWN
from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.healing import may_heal


class Format(Enum):
    """A format that samples are read from."""

    PARQUET = "Parquet"
    JSON_LINES = "JSON lines"
    JSON_ARRAY = "a JSON array"
    CSV = "CSV"
    ARROW_FILE = "an Arrow file"
    ARROW_STREAM = "an Arrow stream"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the name of such a file ends, the first being the usual one."""
        texts = {"JSON_LINES": (".jsonl", ".ndjson"), "JSON_ARRAY": (".json",), "CSV": (".csv", ".tsv")}
        return {"PARQUET": (".parquet",), **texts}.get(self.name, (".arrow",))

    @property
    def is_text(self) -> bool:
        """Whether it is one of texts, which are read when they are compressed, too."""
        return self in (Format.JSON_LINES, Format.JSON_ARRAY, Format.CSV)


#: So much of a file tells its format.
_HEAD_BYTES = 65536

_OURS = {
    b"PAR1": Format.PARQUET,
    b"ARROW1": Format.ARROW_FILE,
    b"\xff\xff\xff\xff": Format.ARROW_STREAM,
}

#: How compressed files begin, and end by name.
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\0": ".xz"}

_UNPACK = "unpack it and name the file that comes out"
_AS_UTF8 = "save it as UTF-8"
_AS_ROWS = 'write every row as a line {"id": ..., "messages": [...]} of a .jsonl file'

#: How other files begin, what that is, and the mend.
_OTHERS = (
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

#: Names in the first line of a CSV file of samples.
_HEADINGS = {"role", "content", *KNOWN}


def format_of(path: Path) -> Format:
    """The format of a file whose name says the same; of a compressed text, the format of what is in it.

    Raises:
        InputError: it holds something else, which the sentence names with the mend; or it cannot be read.
    """
    compression = compression_of(path)
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
    if compression and _compression(head):
        raise InputError(f"{path} is compressed twice; {_UNPACK}.")
    found = _found(path, head, Path(path.name.lower().removesuffix(compression or "")).suffix)
    if compression and not found.is_text:
        raise InputError(f"{path} holds {found.value} within {compression[1:]}; {_UNPACK}.")
    end = compression or ""
    if not any(path.name.lower().endswith(one + end) for one in found.suffixes):
        raise InputError(f"{path} holds {found.value}; rename it so that it ends in {found.suffixes[0]}{end}.")
    return found


def compression_of(path: Path) -> str | None:
    """How the name of a file ends that is compressed as this one is; None for one that is not.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); correct the path or its permissions.") from error
    return _compression(head)


def _compression(head: bytes) -> str | None:
    return next((suffix for magic, suffix in _COMPRESSED.items() if head.startswith(magic)), None)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to be read, unpacked where it is compressed.

    Raises:
        InputError: its compression is cut off or damaged.
    """
    compression = compression_of(path)
    if compression is None:
        with path.open("rb") as file:
            yield file
        return
    try:
        with _unpacked(path, compression) as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # each library has its own kinds for damaged files
        if may_heal(error):
            raise
        raise InputError(
            f"{path} cannot be unpacked ({first_line(error)}); it is cut off or damaged: write or copy it anew."
        ) from error


def _unpacked(path: Path, compression: str) -> IO[bytes]:
    if compression == ".gz":
        import gzip

        return cast(IO[bytes], gzip.open(path, "rb"))
    if compression == ".xz":
        import lzma

        return lzma.open(path, "rb")
    import io

    import pyarrow as pa

    # Read whole: Arrow's stream knows no lines, and does not say that its end is missing until it is read.
    return io.BytesIO(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read())


def _found(path: Path, head: bytes, suffix: str) -> Format:
    found = next((one for magic, one in _OURS.items() if head.startswith(magic)), None)
    if found is not None:
        return found
    what, mend = next(((what, mend) for magic, what, mend in _OTHERS if head.startswith(magic)), ("", ""))
    if not what:
        one = _text(head, suffix)
        if isinstance(one, Format):
            return one
        what, mend = one
    raise InputError(f"{path} {what}; {mend}.")


def _text(head: bytes, suffix: str) -> Format | tuple[str, str]:
    """The format of a text, whose own reader names the line at fault, or what it is instead and the mend."""
    if suffix in (".parquet", ".arrow") and not head.startswith((b"{", b"[")):
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
        return Format.JSON_ARRAY
    if _spans_lines(text, first, suffix):
        return (
            "is one JSON document over several lines",
            "write one object a line, into a .jsonl file, or an array of objects",
        )
    if re.match(r"<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return "is a page of HTML or XML", "download the file itself"
    if suffix in Format.CSV.suffixes or _is_header(first):
        return Format.CSV
    if suffix not in Format.JSON_LINES.suffixes and not text.startswith("{"):
        return "is of no known kind", "use a .parquet, .jsonl, .json, .csv or .arrow file"
    return Format.JSON_LINES


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
