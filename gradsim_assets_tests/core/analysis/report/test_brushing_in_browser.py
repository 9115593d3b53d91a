"""Margins that are brushed choose what the list of samples shows, and pictures of plots as a paper takes them (mark `ui`)."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.report_case import NAMES, Case

pytestmark = pytest.mark.ui


def margins(pairs: PairProducts, values: np.ndarray) -> dict[str, float]:
    """What each variant's own original has more than the best of the others."""
    found = {}
    for place, variant in enumerate(pairs.candidates.variants):
        rows = pairs.candidates.variant == place
        own = pairs.candidates.originals[rows] == variant
        found[variant] = float(values[rows][own][0] - values[rows][~own].max())
    return found


def listed(page: Any) -> set[str]:
    shown = page.locator("#samples li").evaluate_all("all => all.map((node) => node.childNodes[1].textContent)")
    return {text.split()[-1] for text in shown}


def brush(page: Any, name: str, left: float, right: float) -> None:
    """Drags over a part of a plot, given in shares of its width."""
    plot = page.locator(f"#{name} .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + left * box["width"], box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], box["y"] + box["height"] - 2, steps=6)
    page.mouse.up()
    page.locator("#margin-clear:visible").wait_for()


def test_a_range_of_margins_is_brushed_or_typed(case: Case, open_page: Callable[..., Any]) -> None:
    page = open_page(case.html())
    expected = margins(case.pairs["paraphrased"], case.pairs["paraphrased"].full_similarity)
    brush(page, "margin-histogram", 0.3, 0.7)
    low, high = (float(page.input_value(f"#margin-{end}")) for end in ("low", "high"))
    within = {name for name, value in expected.items() if low <= value <= high}
    # Cosines are stored in steps of 3e-5: none of this case's margins is as near to an end as that.
    assert listed(page) == within and 0 < len(within) < 24
    assert page.inner_text("#sample-id") in within
    page.click("#margin-clear")
    assert listed(page) == set(expected) and page.input_value("#margin-low") == ""
    page.fill("#margin-high", "0.15")
    page.press("#margin-high", "Enter")
    assert listed(page) == {name for name, value in expected.items() if value <= 0.15}
    page.select_option("#setting", "model_generated")
    assert len(listed(page)) == 24, "another setting has other margins"
    assert violations(page) == []


def test_points_of_samples_are_brushed_and_opened(case: Case, open_page: Callable[..., Any]) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    page = open_page(case.html())
    page.select_option("#component", label=name)
    pairs = case.pairs["paraphrased"]
    across = margins(pairs, pairs.full_similarity)
    drawn = page.evaluate("document.querySelector('#margin-plane').data.map((trace) => [trace.text, trace.x, trace.y])")
    points = {text: (x, y) for texts, xs, ys in drawn for text, x, y in zip(texts, xs, ys, strict=True)}
    up = margins(pairs, pairs.similarity[NAMES.index(name)])
    for variant, point in points.items():
        # Two cosines, each rounded by half a step of 1/32767.
        assert point == pytest.approx((across[variant], up[variant]), abs=1 / 32767 + 1e-9)
    assert set(points) == set(across)
    brush(page, "margin-plane", 0.0, 0.5)
    first, last = page.evaluate("document.querySelector('#margin-plane')._fullLayout.xaxis.range")
    left = {variant for variant, (x, _) in points.items() if x <= first + 0.5 * (last - first)}
    assert listed(page) <= left and listed(page)


@pytest.mark.parametrize(
    "name", ["paraphrased-retrieval", "paraphrased-accuracy_over_depth", "paraphrased-accuracy_bars"]
)
def test_pictures_are_as_wide_as_a_column_of_a_paper(
    case: Case, open_page: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    page = open_page(case.html(), dark=True)
    figure = page.locator(f'[data-name="{name}"]')
    figure.scroll_into_view_if_needed()
    page.locator(f'[data-name="{name}"][data-drawn]').wait_for()
    saved = {}
    for kind in ("PNG", "SVG", "PDF"):
        with page.expect_download() as download:
            figure.locator("xpath=following-sibling::p").get_by_text(kind).click()
        assert download.value.suggested_filename == f"{name}.{kind.lower()}"
        download.value.save_as(tmp_path / kind)
        saved[kind] = (tmp_path / kind).read_bytes()
    # 3.3 inches at 300 points; a browser's pixels are whole.
    assert saved["PNG"][:4] == b"\x89PNG" and abs(int.from_bytes(saved["PNG"][16:20]) - 990) <= 2
    assert saved["SVG"].startswith(b"<svg") and b'width="316' in saved["SVG"][:300]
    assert b"#222222" in saved["SVG"] or b"rgb(34, 34, 34)" in saved["SVG"], "ink on paper, whatever the page is"
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", saved["PDF"])
    assert saved["PDF"].startswith(b"%PDF") and box and float(box[1]) == pytest.approx(3.3 * 72, abs=0.1)
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", saved["PDF"], re.DOTALL)
    drawn = b"".join(zlib.decompress(one) for one in streams if one[:1] == b"x")
    assert b"accuracy" in drawn and drawn.count(b" l\n") + drawn.count(b" re") > 5, (
        "letters and lines, no picture of points"
    )


def test_plots_of_the_explorer_are_saved_under_what_they_show(case: Case, open_page: Callable[..., Any]) -> None:
    page = open_page(case.html(), address="#model_generated/lima_3")
    with page.expect_download() as download:
        page.locator("#all-components + .copies").get_by_text("CSV").click()
    assert download.value.suggested_filename == "model_generated-lima_3-components.csv"
