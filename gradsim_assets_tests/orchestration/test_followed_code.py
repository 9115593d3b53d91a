"""Following definitions by name: what counts, what does not, and what is refused."""

from pathlib import Path

import pytest

from gradsim_assets.orchestration.followed_code import SourceTree

#: A module that cases use: `other.used` is what they come to use in some way, `other.unused` what they do not.
OTHER = "def used(x=1):\n    return x + 1\n\n\ndef unused():\n    return 0\n\n\nLIMIT = 5\n"


def write(root: Path, files: dict[str, str]) -> Path:
    package = root / "study"
    for name, content in {"core/other.py": OTHER, "settings.py": "LIMIT = 5\n", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    return package


def hashes(package: Path, *roots: str, without: tuple[str, ...] = ()) -> list[bytes]:
    return sorted(one.hash for one in SourceTree(package, ["core"]).followed(roots or ["core.root:table"], without))


def names(package: Path, *roots: str) -> set[str]:
    return {one.name for one in SourceTree(package, ["core"]).followed(roots or ["core.root:table"])}


#: Ways of using `other.used` from the definition `table` of `core/root.py`.
USES = {
    "by name": "from study.core.other import used\n\ndef table():\n    return used()\n",
    "under another name": "from study.core.other import used as mine\n\ndef table():\n    return mine()\n",
    "as an attribute": "from study.core import other\n\ndef table():\n    return other.used()\n",
    "of a module imported whole": "import study.core.other\n\ndef table():\n    return study.core.other.used()\n",
    "of a module under an alias": "import study.core.other as o\n\ndef table():\n    return o.used()\n",
    "by a relative import": "from .other import used\n\ndef table():\n    return used()\n",
    "by a relative import of the module": "from . import other\n\ndef table():\n    return other.used()\n",
    "by a star": "from study.core.other import *\n\ndef table():\n    return used()\n",
    "by an import inside": "def table():\n    from study.core.other import used\n    return used()\n",
    "as an argument": "from study.core import other\n\ndef table():\n    return list(map(other.used, [1]))\n",
    "in partial": "from functools import partial\nfrom study.core.other import used\n\ntable = partial(used, 2)\n",
    "in a default": "from study.core.other import used\n\ndef table(x=used()):\n    return x\n",
    "as a decorator": "from study.core.other import used\n\n@used\ndef table():\n    return 1\n",
    "as a base": "from study.core.other import used\n\nclass table(used):\n    pass\n",
    "in a class attribute": "from study.core.other import used\n\nclass table:\n    x = used()\n",
    "in a field": "from study.core.other import used\n\n@dataclass\nclass table:\n    x: int = field(default_factory=used)\n",
    "in a pattern": "from study.core import other\n\ndef table(x):\n    match x:\n        case other.used():\n            return 1\n",
    "in a lambda": "from study.core.other import used\n\ntable = lambda: used()\n",
    "in a comprehension": "from study.core.other import used\n\ndef table():\n    return [used() for _ in range(2)]\n",
    "in a registry": "from study.core.other import used\n\nKINDS = {'a': used}\n\ndef table(k):\n    return KINDS[k]()\n",
    "by getattr": "from study.core import other\n\ndef table(n):\n    return getattr(other, n)()\n",
    "by globals": "from study.core.other import used\n\nx = used()\n\ndef table(n):\n    return globals()[n]\n",
    "bound by for": "from study.core.other import used\n\nfor x in [used()]:\n    pass\n\ndef table():\n    return x\n",
    "bound by with": "from study.core.other import used\n\nwith used() as x:\n    pass\n\ndef table():\n    return x\n",
    "bound in a tuple": "from study.core.other import used\n\n(x, *y), z = used()\n\ndef table():\n    return y\n",
    "bound by a pattern": "from study.core.other import used\n\nmatch used():\n    case {'a': x, **rest}:\n        pass\n\n"
    "def table():\n    return rest\n",
    "bound on a condition": "from study.core.other import used\n\nif 1:\n    x = used\nelse:\n    x = None\n\n"
    "def table():\n    return x()\n",
    "bound in a try": "from study.core.other import used\n\ntry:\n    x = used()\nexcept ValueError:\n    x = None\n\n"
    "def table():\n    return x\n",
    "by the first of two definitions": "from study.core.other import used\n\nx = used()\nx = x + 1\n\ndef table():\n    return x\n",
    "by a setter of a global": "from study.core.other import used\n\nx = None\n\ndef fill():\n    global x\n    x = used()\n\n"
    "def table():\n    return x\n",
    "by filling a constant": "from study.core.other import used\n\nX = {}\nX['a'] = used()\n\ndef table():\n    return X\n",
    "by a call at the top": "from study.core.other import used\n\nX = []\nX.append(used())\n\ndef table():\n    return X\n",
    "by a loop at the top": "from study.core.other import used\n\nX = {}\nfor k in 'ab':\n    X.setdefault(k, used())\n\n"
    "def table():\n    return X\n",
    "kept by a decorator of ours": "from study.core.other import used\n\nX = []\n\ndef keep(f):\n    X.append(f)\n\n"
    "@keep\ndef one():\n    return used()\n\ndef table():\n    return X[0]()\n",
    "registered for a type": "from functools import singledispatch\nfrom study.core.other import used\n\n@singledispatch\n"
    "def table(x):\n    return x\n\n@table.register\ndef _(x: int):\n    return used(x)\n",
    "re-exported by a package": "from study.core.group import used\n\ndef table():\n    return used()\n",
    "of a module of a package": "from study.core import group\n\ndef table():\n    return group.deep.used()\n",
    "made by a module's __getattr__": "from study.core.lazy import whatever\n\ndef table():\n    return whatever()\n",
    "of an argument's class": "from study.core.classes import Made\n\ndef table(made: Made):\n    return made.value()\n",
    "of an argument's class, in quotes": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "    from study.core.classes import Made\n\ndef table(made: 'list[Made] | None'):\n    return made[0].value()\n",
    "by a log of our own that is none": "from study.core.other import used as log\n\ndef table(x):\n    log(x)\n    return x\n",
}

HELPERS = {
    "core/group/__init__.py": "from study.core.other import used\n\n__all__ = ['used']\n",
    "core/group/deep.py": "from study.core.other import used\n",
    "core/lazy.py": "def __getattr__(name):\n    from study.core.other import used\n    return used\n",
    "core/classes.py": "from study.core.other import used\n\nclass Made:\n    def value(self):\n        return used()\n",
}


@pytest.mark.parametrize("root", USES.values(), ids=USES)
def test_what_is_used_counts_however_it_is_used(root: str, tmp_path: Path) -> None:
    package = write(tmp_path, {**HELPERS, "core/root.py": root})
    before = hashes(package)
    assert "core.other:used" in names(package)
    (package / "core/other.py").write_text(OTHER.replace("x + 1", "x + 2"), encoding="utf-8")
    assert hashes(package) != before


ROOT = '''"""What this is."""
import logging
import numpy as np
from study.core.errors import InputError
from study.core.other import LIMIT, used
from study.settings import LIMIT as ASKED

log = logging.getLogger(__name__)
COLUMNS = Column("id", "what it is", "tokens", nullable=True)
AGREEMENT = TableSchema("agreement", COLUMNS)


def table(x: int = 1, report=None) -> list[int]:
    """What it does."""
    if x < 0:
        raise InputError(f"{x} is too small")
    assert x != 7, "seven"
    size = np.abs(x)
    return [used(x), LIMIT, size, ASKED, AGREEMENT]  # why
'''

#: (what is replaced, by what) in ROOT: edits that mean nothing.
IDLE = {
    "a docstring": ('"""What it does."""', '"""What it does, said better."""'),
    "no docstring": ('    """What it does."""\n', ""),
    "the docstring of the module": ('"""What this is."""', '"""Another."""'),
    "a comment": ("# why", "# because"),
    "a type hint": ("x: int = 1", "x: 'int | float' = 1"),
    "the type of the result": ("-> list[int]", "-> list"),
    "the wording of an error": ("is too small", "is below 0"),
    "the wording of an assertion": ('"seven"', '"not seven"'),
    "a log line": ("    size =", '    log.info("%d", x)\n    size ='),
    "a log line on a condition": ("    size =", '    if log:\n        log.info(f"{len(str(x))}")\n    size ='),
    "a note": ("    size =", '    report(f"{x} of many")\n    size ='),
    "a printed line": ("    size =", "    print(x)\n    size ="),
    "a description": ('"what it is"', '"what it really is"'),
    "a unit": ('"tokens"', '"characters"'),
    "line breaks": ("[used(x), LIMIT", "[\n        used(x), LIMIT"),
    "an import that is not used": ("import numpy as np", "import numpy as np\nimport os"),
    "what is not used": ("AGREEMENT = ", "OTHER = 3\nAGREEMENT = "),
    "what exports": ("log = ", "__all__ = ['table']\nlog = "),
}

#: Edits that may change a value.
TELLING = {
    "a constant": ("int = 1", "int = 2"),
    "what is true for what is one": ("int = 1", "int = True"),
    "the condition of an error": ("x < 0", "x <= 0"),
    "another error": ("raise InputError", "raise ValueError"),
    "the condition of an assertion": ("x != 7", "x != 8"),
    "the order of arguments": ("x: int = 1, report=None", "report=None, x: int = 1"),
    "another library under the same name": ("import numpy as np", "import torch as np"),
    "another function under the same name": ("import LIMIT, used", "import LIMIT, unused as used"),
    "what settings say": ("import LIMIT as ASKED", "import MOST as ASKED"),
    "a dtype": ('Column("id"', 'Column("name"'),
    "whether null is a value": ("nullable=True", "nullable=False"),
    "a log line that does something": ("    size =", "    log.info(x := 3)\n    size ="),
    "a log line that takes something": ("    size =", "    log.info(report.pop())\n    size ="),
    "a note that is kept": ("    size =", "    report(x)\n    size ="),
}


@pytest.mark.parametrize(("old", "new"), IDLE.values(), ids=IDLE)
def test_what_is_only_said_does_not_count(old: str, new: str, tmp_path: Path) -> None:
    assert ROOT.count(old) == 1
    before = hashes(write(tmp_path / "a", {"core/root.py": ROOT, "core/errors.py": "class InputError(Exception): ..."}))
    after = write(
        tmp_path / "b", {"core/root.py": ROOT.replace(old, new), "core/errors.py": "class InputError(Exception): ..."}
    )
    assert hashes(after) == before


@pytest.mark.parametrize(("old", "new"), TELLING.values(), ids=TELLING)
def test_what_may_change_a_value_counts(old: str, new: str, tmp_path: Path) -> None:
    assert ROOT.count(old) == 1
    before = hashes(write(tmp_path / "a", {"core/root.py": ROOT, "core/errors.py": "class InputError(Exception): ..."}))
    after = write(
        tmp_path / "b", {"core/root.py": ROOT.replace(old, new), "core/errors.py": "class InputError(Exception): ..."}
    )
    assert hashes(after) != before


def test_two_functions_that_change_places_count(tmp_path: Path) -> None:
    root = "from study.core.other import used as a, unused as b\n\ndef table():\n    return a() - b() - b() - a()\n"
    before = hashes(write(tmp_path / "a", {"core/root.py": root}))
    assert (
        hashes(
            write(tmp_path / "b", {"core/root.py": root.replace("used as a, unused as b", "unused as a, used as b")})
        )
        != before
    )


def test_a_move_is_free(tmp_path: Path) -> None:
    root = "from study.core.other import LIMIT\nfrom study.core.{} import helper\n\ndef table():\n    return helper(LIMIT)\n"
    helper = "import numpy as np\n\ndef helper(x):\n    from study.core.other import used\n    return np.abs(used(x))\n"
    before = hashes(write(tmp_path / "a", {"core/root.py": root.format("here"), "core/here.py": helper}))
    moved = helper.replace("study.core.other", "study.core.deep.others")
    files = {"core/root.py": root.format("deep.there"), "core/deep/there.py": moved, "core/deep/others.py": OTHER}
    assert hashes(write(tmp_path / "b", files)) == before


def test_a_module_that_is_left_out_counts_by_name_alone(tmp_path: Path) -> None:
    root = "from study.core.other import LIMIT, used\n\ndef table():\n    return used()\n"
    package = write(tmp_path, {"core/root.py": root})
    before = hashes(package, without=("core.other",))
    (package / "core/other.py").write_text(OTHER.replace("x + 1", "x + 2"), encoding="utf-8")
    assert hashes(package, without=("core.other",)) == before


def test_a_module_that_is_left_out_under_an_old_name_is_told(tmp_path: Path) -> None:
    package = write(tmp_path, {"core/root.py": "def table():\n    return 1\n"})
    with pytest.raises(LookupError, match=r"there is no module core.moved"):
        hashes(package, without=("core.moved",))


def test_a_root_elsewhere_is_followed_into_the_package(tmp_path: Path) -> None:
    package = write(tmp_path, {"resources.py": "from study.core.other import used\n\nclass Source:\n    x = used()\n"})
    assert names(package, "resources") == {"resources:Source", "core.other:used"}


def test_a_package_as_a_root_stands_for_what_it_exports(tmp_path: Path) -> None:
    assert names(write(tmp_path, HELPERS), "core.group") == {"core.other:used"}


def test_files_that_a_module_reads_count_with_those_that_they_include(tmp_path: Path) -> None:
    files = {
        "core/root.py": "from pathlib import Path\n\nclass Page:\n    NAME = 'page.html.j2'\n\ndef table():\n    return Page.NAME\n",
        "core/page.html.j2": "<style>{% include 'style.css' %}</style>",
        "core/style.css": "@import \"deep/more.css\"; a { src: 'page.html.j2' }",
        "core/deep/more.css": "b {}",
        "core/alone.css": "c {}",
    }
    package = write(tmp_path, files)
    assert {"page.html.j2", "style.css", "more.css"} <= names(package)
    assert "alone.css" not in names(package)
    for name in ("page.html.j2", "style.css", "deep/more.css"):
        before = hashes(package)
        path = package / "core" / name
        path.write_text(path.read_text() + " ")
        assert hashes(package) != before


def test_the_name_of_a_schema_says_nothing_of_its_columns(tmp_path: Path) -> None:
    schemas = "A = TableSchema('a', {'x': 1})\nB = TableSchema('b', {'x': 1})\n"
    root = "from study.core import schemas\nfrom study.core.schemas import B\n\ndef table():\n    return schemas.A.name, B.enforce()\n"
    package = write(tmp_path, {"core/schemas.py": schemas, "core/root.py": root})
    assert names(package) == {"core.root:table", "core.schemas:B"}


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("core.nowhere", "there is no module core.nowhere"),
        ("core.other:gone", "core.other does not define gone"),
        ("core.empty", "core.empty defines nothing"),
        ("core.root:table", "core.other does not define missing"),
    ],
)
def test_what_is_not_there_is_refused(root: str, said: str, tmp_path: Path) -> None:
    asks = "from study.core.other import missing\n\ndef table():\n    return missing()\n"
    package = write(tmp_path, {"core/root.py": asks, "core/empty.py": '"""Nothing."""\n'})
    with pytest.raises(LookupError, match=said):
        hashes(package, root)
