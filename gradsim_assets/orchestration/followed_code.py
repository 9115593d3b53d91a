"""Python source that is followed from definition to definition, through the imports of its modules.

Nothing is imported or run. Two things cannot be seen that way: names that are made up at run time, and modules that are
imported for what their import does alone (the linter forbids these).
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gradsim_assets.orchestration.code_meaning import Chain, Meaning, bound_names, callee, only_binds, statements

_FILE = r"[\w./-]+\.\w+"
_QUOTED_FILE = re.compile(rf"""["']({_FILE})["']""")


class Place(NamedTuple):
    """Where a definition stands: its module, as a dotted name in the package, and its number among the statements."""

    module: str
    number: int


class Followed(NamedTuple):
    """A definition or file that something is made of: a name to show, and the hash of what it means."""

    name: str
    hash: bytes


class Definition:
    """One statement at the top of a module.

    Attributes:
        names: what it binds.
        acts: whether it does more than binding names, so that it counts wherever its module is used.
        makes_schema: whether it defines a table's schema, whose attribute `name` says nothing of the columns.
    """

    def __init__(self, statement: ast.stmt, own: Collection[str]) -> None:
        self._statement, self._own = statement, own
        self.names = bound_names(statement)
        # A decorator of our own may keep what it is given.
        decorators = filter(None, map(callee, getattr(statement, "decorator_list", [])))
        kept = any(chain[0] in own or chain[-1] == "register" for chain in decorators)
        self.acts = kept or self.names == ["_"] or not only_binds(statement)
        self.makes_schema = callee(getattr(statement, "value", None))[-1:] == ("TableSchema",)

    @cached_property
    def meaning(self) -> Meaning:
        return Meaning(self._statement, self._own)


class Module:
    """The definitions of a module, and where the names that it imports come from."""

    def __init__(self, path: Path, package: str, name: str) -> None:
        self.path, self.name = path, name
        self.is_package = path.name == "__init__.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        #: By local name the absolute dotted names that it may stand for. Imports inside functions count too.
        self.imports: dict[str, set[str]] = {}
        for local, source in _imports(tree, f"{package}.{name}", self.is_package):
            self.imports.setdefault(local, set()).add(source)
        own = {local for local, sources in self.imports.items() if any(s.startswith(f"{package}.") for s in sources)}
        own |= {bound for statement in tree.body for bound in bound_names(statement)}
        found = {
            number: Definition(statement, own)
            for number, statement in enumerate(tree.body)
            if not isinstance(statement, ast.Import | ast.ImportFrom)
        }
        self.definitions = {number: one for number, one in found.items() if one.names != ["__all__"]}
        self.numbers: dict[str, list[int]] = {}
        for number, definition in self.definitions.items():
            for bound in definition.names:
                self.numbers.setdefault(bound, []).append(number)


class SourceTree:
    """The modules of a package, parsed when they are asked for.

    Args:
        package: its folder.
        parts: dotted names in the package below which definitions are followed. What is imported from elsewhere counts
            by its name alone.
    """

    def __init__(self, package: Path, parts: Collection[str]) -> None:
        self.package, self.parts = package, frozenset(parts)
        self._modules: dict[str, Module] = {}
        self._linked: dict[Place, Mapping[Chain, list[Place]]] = {}

    def followed(self, roots: Iterable[str], without: Collection[str] = ()) -> list[Followed]:
        """The definitions and files that the roots are made of.

        Args:
            roots: modules ("core.seeds"), packages (what they import from their modules), or definitions
                ("core.seeds:stable_seed").
            without: dotted names below which nothing is followed.

        Raises:
            LookupError: a root, an import, or what is to be left out names what there is not.
        """
        for name in without:  # left out under a name that it has no more, a module would count again
            self._found(name)
        left = [place for root in roots for place in self._root(root)]
        found: dict[Place, Followed] = {}
        files: dict[Path, Followed] = {}
        while left:
            place = left.pop()
            if place in found or _is_below(place.module, without):
                continue
            module = self.module(place.module)
            definition, links = module.definitions[place.number], self._links(place)
            if not definition.meaning.text:
                continue
            found[place] = Followed(self._label(place), self._hash(place, without))
            left += [to for targets in links.values() for to in targets]
            left += [Place(module.name, number) for number, one in module.definitions.items() if one.acts]
            for string in definition.meaning.strings:
                files |= self._files(module.path.parent, string)
        return [*found.values(), *files.values()]

    def module(self, name: str) -> Module:
        """A module by its dotted name in the package; raises LookupError where there is none."""
        if name not in self._modules:
            self._modules[name] = Module(self._found(name), self.package.name, name)
        return self._modules[name]

    def _found(self, name: str) -> Path:
        if (path := self._path(name)) is None:
            raise LookupError(f"there is no module {name} in {self.package}; correct what asks for it.")
        return path

    def _path(self, name: str) -> Path | None:
        path = self.package.joinpath(*name.split("."))
        return next((one for one in (path / "__init__.py", path.with_suffix(".py")) if one.is_file()), None)

    def _root(self, root: str) -> list[Place]:
        name, _, definition = root.partition(":")
        module = self.module(name)
        if definition:
            return self._asked(module, definition)
        found = [place for place in _all(module) if self._definition(place).meaning.text]
        if module.is_package:
            found += [place for local in module.imports for place in self._named(module, local)]
        if not found:
            raise LookupError(f"{root} defines nothing; name what decides the values.")
        return found

    def _definition(self, place: Place) -> Definition:
        return self.module(place.module).definitions[place.number]

    def _label(self, place: Place) -> str:
        return f"{place.module}:{', '.join(self._definition(place).names) or place.number}"

    def _links(self, place: Place) -> Mapping[Chain, list[Place]]:
        """What the names in a definition stand for."""
        if place not in self._linked:
            module, meaning = self.module(place.module), self._definition(place).meaning
            self._linked[place] = {chain: self._resolved(module, chain) for chain in meaning.uses | meaning.hints}
        return self._linked[place]

    def _hash(self, place: Place, without: Collection[str]) -> bytes:
        """The hash of what a definition means, and of what its names stand for: two of them may change places."""
        imports, meaning = self.module(place.module).imports, self._definition(place).meaning
        digest = hashlib.sha256(meaning.text.encode())
        for chain in sorted(meaning.uses):
            found = [to for to in self._links(place)[chain] if not _is_below(to.module, without)]
            texts = [self._definition(to).meaning.text for to in found]
            elsewhere = [] if texts else [self._outside(source) for source in imports.get(chain[0], ())]
            digest.update(repr((chain, sorted(texts), sorted(elsewhere))).encode())
        return digest.digest()

    def _outside(self, source: str) -> str:
        """What an import that is not followed counts by; where it stands in the package does not count."""
        return source if self._inside(source) is None else source.rpartition(".")[2]

    def _inside(self, source: str) -> str | None:
        """An absolute dotted name as one in the package; None for what lies elsewhere."""
        package, _, inside = source.partition(".")
        return inside if package == self.package.name else None

    def _resolved(self, module: Module, chain: Chain) -> list[Place]:
        """The definitions that a name with its attributes stands for in a module."""
        if chain == ("globals",):
            return _all(module)
        found = self._named(module, *chain)
        if chain[-1] == "name":
            found = [to for to in found if not self._definition(to).makes_schema]
        return found

    def _named(self, module: Module, name: str, *attributes: str) -> list[Place]:
        """The definitions behind a name of a module, which may have imported it."""
        found = [Place(module.name, number) for number in module.numbers.get(name, ())]
        for source in module.imports.get(name, ()):
            found += self._imported(source, attributes)
        if not found and name not in module.imports:
            for star in module.imports.get("*", ()):
                if (inside := self._inside(star)) and _is_below(inside, self.parts):
                    found += self._named(self.module(inside), name, *attributes)
        return found

    def _imported(self, source: str, attributes: tuple[str, ...]) -> list[Place]:
        """The definitions behind an absolute dotted name and the attributes that are asked of it."""
        inside = self._inside(source)
        if inside is None:
            return []
        if attributes and self._path(f"{inside}.{attributes[0]}".lstrip(".")):
            return self._imported(f"{source}.{attributes[0]}", attributes[1:])
        holder, _, name = inside.rpartition(".")
        is_module = inside and self._path(inside) is not None
        if not _is_below(inside if is_module else holder, self.parts):
            return []
        if not is_module:
            return self._asked(self.module(holder), name, *attributes)
        if attributes:
            return self._asked(self.module(inside), *attributes)
        return _all(self.module(inside))  # the module itself is handed on: anything in it may be meant

    def _asked(self, module: Module, name: str, *attributes: str) -> list[Place]:
        """As `_named`, of a name that must be there."""
        found = self._named(module, name, *attributes)
        if found or name in module.imports or name.startswith("__"):
            return found
        if made := self._named(module, "__getattr__"):
            return made
        raise LookupError(f"{module.name} does not define {name}; correct what asks for it.")

    def _files(self, folder: Path, name: str, above: frozenset[Path] = frozenset()) -> dict[Path, Followed]:
        """A file beside a module that the module names, and the files that this one names itself (an included template)."""
        if not re.fullmatch(_FILE, name) or name.endswith(".py"):
            return {}
        path = (folder / name).resolve()
        if path in above or not path.is_file() or not path.is_relative_to(self.package.resolve()):
            return {}
        content = path.read_bytes()
        found = {path: Followed(path.name, hashlib.sha256(content).digest())}
        for other in set(_QUOTED_FILE.findall(content.decode(errors="ignore"))):
            found |= self._files(folder, other, above | {path})
        return found


def _all(module: Module) -> list[Place]:
    return [Place(module.name, number) for number in module.definitions]


def _is_below(name: str, parts: Collection[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """(local name, absolute dotted name) of everything that a module imports; the local name of `import *` is "*"."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]  # `import a.b` binds a
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package if node.level else 0
            holder = ".".join(name.split(".")[: -up or None]) if node.level else ""
            source = ".".join(part for part in (holder, node.module) if part)
            for alias in node.names:
                star = alias.name == "*"
                yield ("*", source) if star else (alias.asname or alias.name, f"{source}.{alias.name}")
