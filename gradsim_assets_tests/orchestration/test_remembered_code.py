"""What was found in the code is found again without reading it, as long as no byte of the package is another."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradsim_assets.configuration import Settings
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs import code_version as versions
from gradsim_assets.orchestration.followed_code import SourceTree
from gradsim_assets_tests.support.edits import appended, copied_package, forget, replaced

ROOTS = ("core.seeds:stable_seed", "core.analysis.report")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = copied_package(tmp_path)
    monkeypatch.setattr(versions, "PACKAGE", folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    forget()
    yield folder
    forget()


def kept(package: Path) -> list[Path]:
    return sorted(package.rglob("__pycache__/*.json"))


def read_anew(monkeypatch: pytest.MonkeyPatch) -> tuple[str, bool]:
    """The code version in another process, and whether the code was followed for it."""
    followed: list[object] = []
    real = SourceTree.followed

    def counted(self: SourceTree, *arguments: object) -> object:
        followed.append(arguments)
        return real(self, *arguments)  # type: ignore[arg-type]

    forget()
    with monkeypatch.context() as patched:
        patched.setattr(SourceTree, "followed", counted)
        found = versions.code_version(*ROOTS)
    return found, bool(followed)


def test_it_is_read_once_and_the_order_of_the_roots_is_no_other_question(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, followed = read_anew(monkeypatch)
    assert followed and not kept(package)
    versions.remember()
    assert len(kept(package)) == 1
    assert read_anew(monkeypatch) == (first, False)
    forget()
    assert versions.code_version(*reversed(ROOTS)) == first and versions._tree.cache_info().misses == 0


@pytest.mark.parametrize(
    "edit",
    [
        appended("core/seeds.py", "\nMORE = 1\n"),
        replaced("core/analysis/report/style.css", r"\A", "/* more */"),
        lambda package: (package / "core" / "more.py").write_text("MORE = 1\n"),
        lambda package: (package / "core" / "seeds.py").rename(package / "core" / "grains.py"),
    ],
    ids=["an edit", "a file that is no code", "a new file", "another name"],
)
def test_whatever_changes_has_it_read_again(
    edit: Callable[[Path], object], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_anew(monkeypatch)
    versions.remember()
    edit(package)
    if (package / "core" / "seeds.py").exists():
        assert read_anew(monkeypatch)[1]
    else:
        with pytest.raises(LookupError, match=r"core\.seeds"):
            read_anew(monkeypatch)


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"of": 1}', b"\xff"])
def test_what_cannot_be_read_is_of_no_account(broken: bytes, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = read_anew(monkeypatch)
    versions.remember()
    kept(package)[0].write_bytes(broken)
    assert read_anew(monkeypatch) == (first, True)
    versions.remember()
    assert read_anew(monkeypatch) == (first, False)


def test_nothing_is_written_where_no_bytecode_is(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = read_anew(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "dont_write_bytecode", True)
        versions.remember()
    (package / "__pycache__").write_text("no folder can be made here")
    versions.remember()
    assert not kept(package) and read_anew(monkeypatch) == (first, True)


def test_definitions_are_the_same_from_what_is_remembered(package: Path, tmp_path: Path) -> None:
    def of_assets() -> dict[str, str | None]:
        forget()
        graph = build_definitions(Settings(home=tmp_path, tables=str(tmp_path))).resolve_asset_graph()
        return {node.key.to_user_string(): node.code_version for node in graph.asset_nodes}

    first = of_assets()
    assert len(kept(package)) == 1 and len(first) > 30
    assert of_assets() == first and versions._tree.cache_info().misses == 0
