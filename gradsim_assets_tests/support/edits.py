"""Edits of a copy of the package, to see what they make stale; the code that runs stays as it is."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from gradsim_assets.defs import code_version as versions

#: The package as it is.
REAL = versions.PACKAGE


def copied_package(folder: Path) -> Path:
    """A copy of the package in a folder, to make edits in; what was edited there before is taken back."""
    target = folder / REAL.name
    shutil.copytree(REAL, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return target


def forget() -> None:
    """Has code versions read anew from the folder that `code_version.PACKAGE` now is."""
    versions.code_version.cache_clear()
    versions._tree.cache_clear()
    versions._remembered.cache_clear()


Edit = Callable[[Path], None]


def replaced(file: str, pattern: str, by: str) -> Edit:
    """The first match of a pattern in a file replaced."""

    def edit(package: Path) -> None:
        text = (package / file).read_text(encoding="utf-8")
        changed = re.sub(pattern, by, text, count=1, flags=re.M)
        assert changed != text, f"{pattern} is not in {file}"
        (package / file).write_text(changed, encoding="utf-8")

    return edit


def inserted(file: str, function: str, line: str = "_ = 0") -> Edit:
    """A line at the beginning of a function, behind its docstring."""

    def edit(package: Path) -> None:
        text = (package / file).read_text(encoding="utf-8")
        (found,) = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == function)
        first = next(s for s in found.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)))
        lines = text.splitlines(keepends=True)
        lines.insert(first.lineno - 1, f"{' ' * first.col_offset}{line}\n")
        (package / file).write_text("".join(lines), encoding="utf-8")

    return edit


def appended(file: str, text: str) -> Edit:
    def edit(package: Path) -> None:
        with (package / file).open("a", encoding="utf-8") as target:
            target.write(text)

    return edit
