"""The examples in docstrings run as they stand."""

import doctest
import importlib
from pathlib import Path

import pytest

import gradsim_assets

ROOT = Path(gradsim_assets.__file__).parent.parent

#: Every module of the package that shows an example.
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "gradsim_assets").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_the_engine_and_the_schemas_show_how_they_are_used() -> None:
    assert {"gradsim_assets.core.gradients.engine", "gradsim_assets.core.tables.table_schema"} <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_what_it_says(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
