"""What was found in a package's source, kept beside its bytecode for the next process.

Following the code of all tables takes more than a second, and every process that loads the definitions asks for it: a
code server, each run, each command. What is kept is good for exactly the sources that it was found in, byte for byte,
and is of no account where it cannot be read or written.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.util import cache_from_source
from pathlib import Path

from gradsim_assets.core.files import write_whole
from gradsim_assets.orchestration.followed_code import Followed

#: The form of the file.
_FORM = 1


class RememberedCode:
    """Answers of `SourceTree.followed` for one package as it is now.

    Args:
        package: its folder.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self._new = False

    def get(self, *question: Sequence[str]) -> list[Followed] | None:
        """The answer to a question (roots, and what is left out), or None where nobody asked before."""
        if (found := self._answers.get(json.dumps(question))) is None:
            return None
        return [Followed(name, bytes.fromhex(digest)) for name, digest in found]

    def put(self, answer: Sequence[Followed], *question: Sequence[str]) -> None:
        self._answers[json.dumps(question)] = [(one.name, one.hash.hex()) for one in answer]
        self._new = True

    def keep(self) -> None:
        """Writes what was found since; nothing where Python is told to write no bytecode, or may not write there."""
        if not self._new or sys.dont_write_bytecode:
            return
        self._new = False
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"of": self._sources, "answers": self._answers}))

    @property
    def _file(self) -> Path:
        return Path(cache_from_source(str(self.package / "followed_code.py"))).with_suffix(".json")

    @cached_property
    def _answers(self) -> dict[str, list[tuple[str, str]]]:
        try:
            kept = json.loads(self._file.read_bytes())
            return dict(kept["answers"]) if kept["of"] == self._sources else {}
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or half of one
            return {}

    @cached_property
    def _sources(self) -> str:
        """A hash of every file of the package, by name and content; modification times would not survive a checkout."""
        digest = hashlib.sha256(repr((_FORM, sys.version_info)).encode())
        for path in sorted(_files(str(self.package))):
            digest.update(path.removeprefix(str(self.package)).encode() + b"\0")
            digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
        return digest.hexdigest()


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif entry.is_file():
                yield entry.path
