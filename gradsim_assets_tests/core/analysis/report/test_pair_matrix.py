"""The matrix of all pairs in a report: on one scale, and in a browser (mark `ui`)."""

import base64
import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.report_case import Case

SIZE = 12


@pytest.fixture(scope="module")
def exhaustive() -> Case:
    return Case(variants=SIZE, candidates=SIZE)


def figures(html: str) -> dict[str, Any]:
    (packed,) = re.findall(r'id="figures-data">([^<]*)<', html)
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found


def shown(page: Any, setting: str) -> Any:
    """The plot, once it is drawn."""
    name = f'[data-name="{setting}-pair_matrix"]'
    page.locator(name).scroll_into_view_if_needed()
    page.wait_for_selector(f"{name}[data-drawn]")
    return page.locator(name)


def test_both_settings_have_every_pair_on_one_scale(exhaustive: Case) -> None:
    maps = {
        name: trace
        for name, figure in figures(exhaustive.html()).items()
        for trace in figure["data"]
        if trace["type"] == "heatmap" and trace.get("name") == wording.SIMILARITY
    }
    assert len(maps) == 2
    assert len({(trace["zmin"], trace["zmax"]) for trace in maps.values()}) == 1
    for setting in SETTINGS:
        pairs = exhaustive.pairs[setting]
        (trace,) = [one for name, one in maps.items() if name.startswith(setting)]
        lines = zip(trace["customdata"], trace["z"], strict=True)
        cells = {tuple(pair): value for line, row in lines for pair, value in zip(line, row, strict=True)}
        named = map(tuple, pairs.candidates.frame.rows())
        assert cells == pytest.approx(dict(zip(named, pairs.full_similarity, strict=True)), abs=1e-4)


def test_where_few_were_compared_there_is_no_matrix(case: Case) -> None:
    assert wording.PLOTS["pair_matrix"].title not in case.html()


@pytest.mark.ui
def test_a_cell_opens_its_pair_and_the_numbers_are_saved(
    exhaustive: Case, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page(exhaustive.html())
    page.fill("#search", "no such thing anywhere")
    node = shown(page, "model_generated")
    area = node.locator(".nsewdrag").first
    box = area.bounding_box()
    # The third variant with the fifth original.
    area.click(position={"x": box["width"] * 4.5 / SIZE, "y": box["height"] * 2.5 / SIZE})
    ids = exhaustive.pairs["model_generated"].candidates.variants
    page.locator("#sample-id", has_text=re.compile(f"^{ids[2]}$")).wait_for()
    assert page.input_value("#setting") == "model_generated"
    listed = page.locator("#candidates tbody button").all_inner_texts()
    read = page.locator("#candidates tr[aria-current] button").inner_text()
    assert read == (ids[4] if ids[4] in listed else f"{ids[2]} (own)")
    with page.expect_download() as download:
        node.locator("xpath=following-sibling::p").get_by_text("CSV").click()
    download.value.save_as(tmp_path / "csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    cells = [line for line in lines if line["series"] == wording.SIMILARITY]
    assert {(line["y"], line["x"]) for line in cells} == {(v, o) for v in ids for o in ids}
    assert {line["series"] for line in lines} == {wording.SIMILARITY, wording.OWN, wording.OTHER}


@pytest.mark.ui
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (768, False), (360, False)])
def test_it_can_be_read_everywhere(exhaustive: Case, open_page: Callable[..., Any], width: int, dark: bool) -> None:
    page = open_page(exhaustive.html(), width, dark)
    for setting in SETTINGS:
        shown(page, setting)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
