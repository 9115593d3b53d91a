"""What a statement of Python means, as text that stays the same while nothing changes that could decide a value.

Left out is what is said to people (docstrings, comments, logs, the wording of errors, descriptions of columns), and what
says where things stand (import lines). Type hints are left out where nothing looks at them, but their names are kept:
they say whose methods are called.
"""

import ast
from collections.abc import Collection, Iterator

#: A name with its attributes, as it is written: ("schemas", "AGREEMENT", "enforce").
Chain = tuple[str, ...]

#: Calls that say something to somebody where they stand alone, as a function or a method of one's own. A note or a
#: report may also be kept, so that it counts as said only where it is a text.
_SAYS, _MAY_SAY = {"log", "progress"}, {"note", "report"}

#: The same of loggers.
_LOGGERS, _LEVELS = {"log", "logger", "logging"}, {"debug", "info", "warning", "error", "exception", "critical", "log"}
_PRINTS = {("print",), ("warnings", "warn")}

#: What may be called in something that is said: it changes nothing.
_PURE = {"abs", "format", "join", "len", "max", "min", "repr", "round", "sorted", "str", "sum", "type"}

#: Decorators that do not look at type hints.
_BLIND = {
    *("abstractmethod", "cache", "cached_property", "classmethod", "lru_cache", "property", "staticmethod", "wraps"),
    *("asynccontextmanager", "contextmanager"),
}

#: Calls whose texts behind the first argument describe and decide nothing.
_DESCRIBES = {"Column"}

#: Fields of syntax trees that say nothing, or do not exist in every version of Python.
_SILENT = {"ctx", "kind", "type_comment", "simple"}

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_IMPORTS = (ast.Import, ast.ImportFrom)

#: Nodes of which a part may be for people alone.
_WORDED = (*_FUNCTIONS, ast.AnnAssign, ast.Assert, ast.Call, ast.Raise)


class Meaning:
    """What one statement means.

    Attributes:
        text: empty for a statement that means nothing.
        uses: the names in it that decide what it does.
        hints: the names in its type hints.
        strings: its string constants.
    """

    def __init__(self, statement: ast.stmt, own: Collection[str] = ()) -> None:
        """`own` are names of the module that stand for code of ours, whatever they sound like."""
        self.uses: set[Chain] = set()
        self.hints: set[Chain] = set()
        self.strings: set[str] = set()
        self._own = own
        self._silent: set[int] = set()  # ids of nodes that are left out
        self.text = self._read(statement)

    def _read(self, node: ast.AST, is_field: bool = False) -> str:
        if id(node) in self._silent or isinstance(node, _IMPORTS) or _is_said(node, self._own):
            return ""
        if chain := dotted(node):
            if len(chain) > 1 or isinstance(getattr(node, "ctx", None), ast.Load):
                self.uses.add(chain)
            return ".".join(chain)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.strings.add(node.value)
        if isinstance(node, _WORDED):
            hints = _hints(node)
            self.hints.update(chain for hint in hints for chain in _chains(hint))
            self._silent.update(map(id, _texts(node)))
            if not (is_field or _looks_at_hints(node)):
                self._silent.update(map(id, hints))
        before = (set(self.uses), set(self.strings)) if isinstance(node, ast.If) else None
        fields = self._fields(node)
        if isinstance(node, ast.If) and before and fields.keys() == {"test"} and _is_pure(node.test):
            self.uses, self.strings = before  # under it something is said, and nothing else
            return ""
        return f"{type(node).__name__}({', '.join(f'{name}={text}' for name, text in fields.items())})"

    def _fields(self, node: ast.AST) -> dict[str, str]:
        """The text of every field of a node that means something."""
        fields = {}
        for name, value in ast.iter_fields(node):
            if name in _SILENT:
                continue
            if isinstance(value, list):
                # The fields of a class are what their hints say: dataclasses and pydantic read them.
                of_class = isinstance(node, ast.ClassDef) and name == "body"
                parts = [self._read(one, of_class) if isinstance(one, ast.AST) else repr(one) for one in value]
                fields[name] = ", ".join(part for part in parts if part)
            elif isinstance(value, ast.AST):
                fields[name] = self._read(value)
            elif value is not None or isinstance(node, ast.Constant):
                fields[name] = repr(value)
        return {name: text for name, text in fields.items() if text}


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node, those inside functions and classes too."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()) if not isinstance(node, ast.expr) else ():
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)


def bound_names(statement: ast.stmt) -> list[str]:
    """The names that a statement of a module binds there, but for imports."""
    if isinstance(statement, (ast.ClassDef, *_FUNCTIONS)):
        # A function may bind names of its module as well.
        shared = [name for inner in statements(statement) if isinstance(inner, ast.Global) for name in inner.names]
        return [statement.name, *shared]
    names: list[str] = []
    left: list[ast.AST] = [statement]
    while left:
        node = left.pop(0)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name:
            names.append(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.append(node.rest)
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)):
            names.append(node.name)
        elif not isinstance(node, ast.Lambda):
            left += ast.iter_child_nodes(node)
    return list(dict.fromkeys(names))


def only_binds(statement: ast.stmt) -> bool:
    """Whether a statement does nothing else when it is run than to give names to new things."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return all(not isinstance(node, ast.Attribute | ast.Subscript) for one in targets for node in ast.walk(one))
    return isinstance(statement, (ast.ClassDef, *_FUNCTIONS))


def dotted(node: ast.AST | None) -> Chain:
    """The name with its attributes that an expression is; empty for any other expression."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (holder := dotted(node.value)):
        return (*holder, node.attr)
    return ()


def callee(node: ast.AST | None) -> Chain:
    """What is called, by a call or by a decorator without arguments."""
    return dotted(node.func if isinstance(node, ast.Call) else node)


def _is_said(node: ast.AST, own: Collection[str]) -> bool:
    """Whether a statement is a docstring or says something to somebody."""
    if not isinstance(node, ast.Expr):
        return False
    call = node.value
    if not isinstance(call, ast.Call):
        return isinstance(call, ast.Constant)
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    chain = callee(call)
    if not chain or not all(map(_is_pure, given)):
        return False
    *holders, name = (part.strip("_") for part in chain)
    if chain in _PRINTS or (holders and holders[-1] in _LOGGERS and name in _LEVELS):
        return True
    if chain[0] in own or holders not in ([], ["self"]):
        return False
    return name in _SAYS or (name in _MAY_SAY and any(map(_is_text, given)))


def _is_pure(node: ast.AST) -> bool:
    """Whether working an expression out changes nothing."""
    for one in ast.walk(node):
        if isinstance(one, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(one, ast.Call) and getattr(one.func, "attr", getattr(one.func, "id", None)) not in _PURE:
            return False
    return True


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _texts(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that are worded for people."""
    if isinstance(node, ast.Assert) and node.msg:
        return [node.msg]
    call, first = (node.exc, 0) if isinstance(node, ast.Raise) else (node, 1)
    if not isinstance(call, ast.Call) or (first and (callee(call) or ("",))[-1] not in _DESCRIBES):
        return []
    given = [*call.args[first:], *call.keywords]
    return [one for one in given if _is_text(one.value if isinstance(one, ast.keyword) else one)]


def _hints(node: ast.AST) -> list[ast.expr]:
    """The type hints of a variable or function."""
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    if not isinstance(node, _FUNCTIONS):
        return []
    of = node.args
    arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs, *(one for one in (of.vararg, of.kwarg) if one)]
    return [hint for hint in (node.returns, *(one.annotation for one in arguments)) if hint]


def _looks_at_hints(node: ast.AST) -> bool:
    """Whether a function has a decorator that may act on its type hints, as `singledispatch` does."""
    return any((callee(one) or ("",))[-1] not in _BLIND for one in getattr(node, "decorator_list", []))


def _chains(hint: ast.AST) -> Iterator[Chain]:
    """The names in a type hint, those in quotes too."""
    if chain := dotted(hint):
        yield chain
    elif isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        try:
            yield from _chains(ast.parse(hint.value, mode="eval").body)
        except SyntaxError:  # a text in Annotated, say
            return
    else:
        for child in ast.iter_child_nodes(hint):
            yield from _chains(child)
