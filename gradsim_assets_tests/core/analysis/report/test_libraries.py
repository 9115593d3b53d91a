"""What the page brings of other people's JavaScript: that it is what the lock file names, and no more than a page can bear."""

import hashlib
import html
import json
import re
from pathlib import Path

import plotly.offline
import pytest

from gradsim_assets.core.analysis.report import libraries
from gradsim_assets.core.analysis.report.libraries import LIBRARIES, library_source, packed_library, script_hash
from gradsim_assets_tests.support.report_case import Case

FOLDER = Path(libraries.__file__).parent / "libraries"
LISTED = json.loads((FOLDER / "libraries.json").read_text())

#: What a page may weigh without its data, in bytes.
BUDGET = 1_200_000


@pytest.mark.parametrize("name", LIBRARIES)
def test_bundles_are_what_the_lock_file_names(name: str) -> None:
    locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert hashlib.sha256(library_source(name).encode()).hexdigest() == LISTED[name]["sha256"], "run `make libraries`"
    for package, version in LISTED[name]["packages"].items():
        assert locked[f"node_modules/{package}"]["version"] == version, f"{package}: run `make libraries`"


def test_the_lock_file_is_that_of_the_packages_asked_for() -> None:
    asked = json.loads((FOLDER / "package.json").read_text())
    locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"][""]
    assert {name: locked[name] for name in ("dependencies", "devDependencies")} == {
        name: asked[name] for name in ("dependencies", "devDependencies")
    }


def test_figures_are_drawn_by_the_plotly_that_made_them() -> None:
    assert LISTED["plots"]["packages"]["plotly.js"] == plotly.offline.get_plotlyjs_version(), (
        "name this version in libraries/package.json and run `make libraries`"
    )


def test_every_kind_of_trace_that_python_draws_is_in_the_bundle() -> None:
    registered = set(re.findall(r"from \"plotly.js/lib/(\w+)\"", (FOLDER / "plots.js").read_text())) | {"scatter"}
    drawn = set(re.findall(r"\.add_(\w+)\(", (FOLDER.parents[1] / "plots" / "interactive.py").read_text()))
    assert drawn - {"annotation"} <= registered and "heatmap" in drawn


def test_licences_of_all_packages_are_there() -> None:
    texts = (FOLDER / "LICENSES.txt").read_text()
    for listed in LISTED.values():
        for package, version in listed["packages"].items():
            assert f"\n{package} {version} (" in texts


def test_all_that_is_no_data_is_within_its_budget() -> None:
    page = Case().html()
    data = sum(map(len, re.findall(r'<script type="text/plain" id="[a-z]+-data">([^<]*)<', page)))
    assert data > 10_000 and len(page.encode()) - data < BUDGET


def test_the_policy_names_the_pages_scripts_and_no_others() -> None:
    page = Case().html()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = dict(part.strip().split(" ", 1) for part in html.unescape(policy).split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1 and rules["default-src"] == "'none'"
    expected = {script_hash(source) for source in (*scripts, *map(library_source, LIBRARIES))}
    assert set(rules["script-src"].split()) == expected
    assert all(packed_library(name) in page for name in LIBRARIES)
