"""Code versions: a hash of the code that decides an asset's values, found by following imports inside `core/`.

What is followed are definitions, not files: from all definitions of an asset's root module to those that they name, in
whatever module of `core/` these stand. Two kinds of code are left out by contract, since they cannot change a value:
the modules of `DECIDES_NOTHING`, and what is said to people (docstrings, comments, logs, the wording of errors and of
column descriptions). Paths and import lines are left out too, so that moving code makes nothing stale.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gradsim_assets import core

#: The folder of the package; modules are named relative to it ("core.analysis.agreement").
PACKAGE = Path(core.__file__).parent.parent

#: Modules that decide what a computation costs or how it is reported, never what comes out of it.
DECIDES_NOTHING = (
    "core.errors",  # sentences for people
    "core.files",  # how bytes reach the disk
    "core.memory",  # how much is free
    "core.gradients.engine.planning",  # how many at a time; the engine's tests hold results to be independent of it
    "core.gradients.engine.recovery",  # what is tried again with less memory
    "core.gradients.engine.scratch",  # what a killed pass goes on from
)

#: A call of one of these as a statement of its own says something to somebody; its value goes nowhere.
_SAYS = {"debug", "info", "log", "_log", "note", "_note", "progress", "_progress", "report", "warning"}

#: Files beside a module that it reads: templates, scripts, styles.
_READ = re.compile(r"[\w.-]+\.(css|html|j2|js|svg)")

#: Calls whose strings describe and decide nothing, behind the first argument.
_DESCRIBES = {"Column"}


@cache
def code_version(*roots: str, config: str = "") -> str:
    """A hash (12 hex digits) of what decides an asset's values.

    `roots` are the modules that it is computed by, as dotted names in the package ("core.analysis.agreement", with or
    without the package's own name in front); `config` is the part of the configuration that decides values as well.

    Raises:
        FileNotFoundError: there is no such module.
    """
    digest = hashlib.sha256(config.encode())
    for meaning in sorted(_meanings(tuple(root.removeprefix(f"{PACKAGE.name}.") for root in roots))):
        digest.update(meaning)
    return digest.hexdigest()[:12]


def _meanings(roots: tuple[str, ...]) -> set[bytes]:
    """Hashes of all definitions that the roots reach, and of the files that these read."""
    found: set[bytes] = set()
    seen: set[tuple[str, str]] = set()
    left = [(root, name) for root in roots for name in _module(root).definitions]
    while left:
        place = left.pop()
        module, name = place
        if place in seen or _decides_nothing(module):
            continue
        seen.add(place)
        definition = _module(module).definitions[name]
        found.add(definition.meaning)
        left += _named_by(_module(module), definition)
    return found


def _decides_nothing(module: str) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in DECIDES_NOTHING)


class _Definition:
    """One top-level statement: the hash of its meaning, and the names and module attributes that it uses."""

    def __init__(self, statement: ast.stmt, folder: Path) -> None:
        meaningful = _Meaningful().visit(statement)
        self.names: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        digest = hashlib.sha256(ast.dump(meaningful).encode())
        for node in ast.walk(meaningful):
            if isinstance(node, ast.Name):
                self.names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self.attributes.add((node.value.id, node.attr))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _READ.fullmatch(node.value):
                file = folder / node.value
                digest.update(file.read_bytes() if file.is_file() else b"")
        self.meaning = digest.digest()


class _Module:
    """A module's definitions by name, and where the names that it imports come from."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = PACKAGE / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        #: By local name: (module, name in it), or (module, "") for a module itself. Imports inside functions count too.
        self.imports: dict[str, tuple[str, str]] = dict(_imports(tree))
        self.definitions: dict[str, _Definition] = {}
        for position, statement in enumerate(tree.body):
            if not isinstance(statement, ast.Import | ast.ImportFrom) and not _is_said(statement):
                definition = _Definition(statement, path.parent)
                for bound in _bound(statement) or [f"<statement {position}>"]:  # registers something, say
                    self.definitions[bound] = definition


@cache
def _module(name: str) -> _Module:
    return _Module(name)


def _is_module(name: str) -> bool:
    path = PACKAGE / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def _named_by(module: _Module, definition: _Definition) -> Iterator[tuple[str, str]]:
    """Where the definitions stand that a definition names."""
    for name in definition.names:
        if name in module.definitions:
            yield module.name, name
        elif name in module.imports:
            other, wanted = module.imports[name]
            attributes = [attribute for alias, attribute in definition.attributes if alias == name]
            for one in [wanted] if wanted else attributes:
                yield from _defined(other, one)


def _defined(module: str, name: str) -> Iterator[tuple[str, str]]:
    """Where a name stands that is asked of a module, which may import it itself."""
    if _decides_nothing(module):
        return
    known = _module(module)
    if name in known.definitions:
        yield module, name
    elif name in known.imports:
        other, wanted = known.imports[name]
        if wanted:
            yield from _defined(other, wanted)


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    prefix = f"{PACKAGE.name}."
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(f"{prefix}core"):
            continue
        module = (node.module or "").removeprefix(prefix)
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            yield alias.asname or alias.name, (inner, "") if _is_module(inner) else (module, alias.name)


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _is_said(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring or says something to somebody."""
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return True
    called = statement.value.func if isinstance(statement.value, ast.Call) else None
    return (
        isinstance(called, ast.Attribute | ast.Name)
        and (called.attr if isinstance(called, ast.Attribute) else called.id) in _SAYS
    )


class _Meaningful(ast.NodeTransformer):
    """Leaves out what cannot change a value: what is said, the wording of errors, and the type hints of functions."""

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                kept = [one for one in statements if not _is_said(one)]
                setattr(node, name, kept or ([ast.Pass()] if statements and name == "body" else []))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _DESCRIBES:
            node.args = node.args[:1] + [one for one in node.args[1:] if not _is_text(one)]
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        return node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
