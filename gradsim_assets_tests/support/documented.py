"""What the README and the pages of docs/ show: commands, configurations, code, names of files; and what is wrong with them."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from gradsim_assets.cli import main

ROOT = Path(__file__).parents[2]

#: What people read, but for pages that are made of other files.
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")

#: Folders of the repository, and rooms of the package that pages name without it.
_FOLDERS = ("gradsim_assets/", "gradsim_assets_tests/", "bench/", "deploy/", "docs/")
_ROOMS = ("core/", "defs/", "orchestration/", "cli/", "runs/", "web/", "resources/")


@dataclass(frozen=True)
class Shown:
    """A piece of a page: a block of code, or what stands between backquotes in a sentence."""

    page: str
    text: str
    #: The language of a block; None within a sentence.
    language: str | None

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:80]}"


def shown(page: Path) -> Iterator[Shown]:
    """Every block of code and every inline piece of a page."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    for language, block in _FENCE.findall(text):
        yield Shown(name, block, language)
    for piece in _INLINE.findall(_FENCE.sub("", text)):
        yield Shown(name, " ".join(piece.split()), None)


def command_lines(piece: Shown) -> list[str]:
    """The commands that a piece shows, lines that go on joined; none for other languages and other words."""
    if piece.language == "shell":
        joined = piece.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [piece.text] if piece.language is None and _program(piece.text) else []


def wrong_command(line: str, whole: bool) -> str | None:
    """What is wrong with a command: one that is not there, an option that it lacks, a file that is not in the repository.

    Args:
        line: as somebody would type it.
        whole: whether it is shown as a whole; within sentences arguments may be left out.
    """
    if " -- " in line:  # kubectl exec ... -- command
        line = line.partition(" -- ")[2]
    words = shlex.split(line.partition(" | ")[0], comments=True)
    program = _program(line)
    while words and "=" in words[0] and not words[0].startswith("-"):
        words = words[1:]
    if program == "gradsim":
        return _wrong_gradsim(words[1:], whole)
    if program == "make":
        targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if word not in targets]
        return f"the Makefile has no {unknown[0]}" if unknown else None
    if program == "python" and "-m" in words:
        return _wrong_module(words[words.index("-m") + 1 :])
    files = [word for word in words if word.startswith(_FOLDERS) and not (ROOT / word).exists()]
    return f"{files[0]} is not there" if files else None


def _program(line: str) -> str | None:
    """gradsim, make, python or pytest, if that is what a line calls; variables may stand before it."""
    found = re.match(
        r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(gradsim|make|python|pytest)(?: |$)", line.partition(" -- ")[2] or line
    )
    return found and found.group(1)


def _wrong_gradsim(words: list[str], whole: bool) -> str | None:
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"gradsim has no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    if not whole:
        known = {option for parameter in command.params for option in (*parameter.opts, "--help")}
        unknown = [word for word in words if word.startswith("--") and word not in known]
        return f"gradsim {command.name} has no {unknown[0]}" if unknown else None
    try:
        command.make_context(command.name, words)
    except click.exceptions.Exit:  # --help
        return None
    except click.ClickException as error:
        return f"gradsim {command.name}: {error.format_message()}"
    return None


def _wrong_module(words: list[str]) -> str | None:
    """What is wrong with `python -m MODULE --options`, for modules of ours."""
    if words[0].partition(".")[0] not in ("bench", "gradsim_assets", "gradsim_assets_tests"):
        return None
    found = importlib.util.find_spec(words[0])
    if found is None or found.origin is None:
        return f"there is no module {words[0]}"
    file = Path(found.origin)
    source = (file.with_name("__main__.py") if file.name == "__init__.py" else file).read_text(encoding="utf-8")
    unknown = [word for word in words[1:] if word.startswith("--") and f'"{word}"' not in source]
    return f"{words[0]} has no {unknown[0]}" if unknown else None


def wrong_path(text: str) -> str | None:
    """What is wrong with a name of a file or folder of ours within a sentence; None too where it is no such name."""
    if not re.fullmatch(r"[\w./-]+", text) or {"g", "t", "t.py"} & set(text.split("/")):  # any group, any table
        return None
    if text.startswith(_FOLDERS) and not (ROOT / text).exists():
        return f"{text} is not there"
    if text.startswith(_ROOMS) and not any((ROOT / package / text).exists() for package in _FOLDERS[:2]):
        return f"{text} is not there"
    return None
