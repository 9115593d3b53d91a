"""dagster.yaml of a home: written once, and the user's own as soon as it was edited."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from gradsim_assets.core.files import create_whole, write_whole

NAME = "dagster.yaml"

#: SHA-256 of what earlier versions wrote, before the file said so itself.
_EARLIER = {
    "3815f497da720c8efde88880962fda8863f2497769157d3e14677c3fb66c5d6c",
    "a1d92e4d3e66440f57542edfdedc0cf845306820623071c49ffd726174f0d360",
    "5bff761a3752b75bb5097f5d0b508186d101df917d982d5da1b95e8ed37d5a0b",
    "aa810b908531db59c4ee7bdcddac23952a8718262a87888bf680797ae6179d2a",
}

_STAMP = (
    "\n# gradsim puts its newer content here as long as nobody edits this file; an edited one is kept as it is.\n"
    "# sha256 of the lines above: "
)
_STAMPED = re.compile(re.escape(_STAMP) + r"([0-9a-f]{64})\n\Z")


def shipped() -> Path:
    """The file that a home's is made from."""
    return Path(str(files("gradsim_assets.runs"))) / NAME


def content() -> str:
    """What a home gets: the shipped file, and a line by which an edit of it is known."""
    text = shipped().read_text(encoding="utf-8")
    return f"{text}{_STAMP}{_sha256(text)}\n"


def provide(folder: Path) -> str | None:
    """Sees to it that a Dagster home has the file; a sentence where an edited one lacks what the shipped one has.

    A new file appears whole and never in the place of another. One that nobody has edited is replaced by newer content.

    Raises:
        OSError: the folder cannot be written, or its file not be read.
    """
    target, ours = folder / NAME, content()
    with suppress(FileNotFoundError):
        there = target.read_text(encoding="utf-8")
        if there != ours and _is_unedited(there):
            write_whole(target, ours)
        return None if _is_unedited(there) else _lacking(target, there)
    create_whole(target, ours)
    return None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_unedited(text: str) -> bool:
    stamped = _STAMPED.search(text)
    return _sha256(text[: stamped.start()]) == stamped[1] if stamped else _sha256(text) in _EARLIER


def _lacking(file: Path, text: str) -> str | None:
    """What an edited file does not say although this version counts on it; whatever it says is the user's will."""
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError:
        return None  # Dagster tells where, when it reads the file
    missing = [
        name for name in _settings(yaml.safe_load(shipped().read_text(encoding="utf-8"))) if not _has(said, name)
    ]
    if not missing:
        return None
    return (
        f"{file} was edited and is kept, but it lacks {', '.join(missing)}; take them over from {shipped()}, or remove the "
        "file and get a new one."
    )


def _settings(node: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{above}{name}.")
        else:
            yield above + name


def _has(node: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
