"""The package's source as the tests of the house read it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gradsim_assets

PACKAGE = Path(gradsim_assets.__file__).parent


class Imported(NamedTuple):
    """One name that a module imports."""

    module: str  # where from, absolute
    name: str  # "" for a module itself
    line: int
    for_types: bool  # under TYPE_CHECKING


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name in it ("core.seeds"; a package by its folder's)."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[Imported]:
    """Everything that a module imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    for_types = {id(inner) for node in guarded for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Imported(alias.name, "", node.lineno, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                yield Imported(str(node.module), alias.name, node.lineno, id(node) in for_types)
