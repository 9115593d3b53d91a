"""One sample under two models, from the real server of a real home."""

import html
import re

import pytest

from gradsim_assets.core.analysis.sample_comparison import under_model
from gradsim_assets.core.tables.schemas import FULL_GRADIENT
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.web_home import CONTROL, MODEL, WebHome
from gradsim_assets_tests.web.test_pages import text

PLACE = "/compare/sample?first=org--model&second=org--model%2Buntrained"


def test_both_models_rank_the_same_variant_with_texts(site: WebHome) -> None:
    component = "model.layers.1.mlp.up_proj.weight"
    status, page = site.get(f"{PLACE}&setting=model_generated&sample=lima_3&component={component}")
    assert status == 200
    table = site.case.settings["model_generated"].similarity.lazy()
    under = under_model(table, "lima_3", component)
    said = text(page)
    for place, row in enumerate(under.ranked.iter_rows(named=True), 1):
        own = " (own)" if row["original_id"] == "lima_3" else ""
        assert said.count(f"{row['original_id']}{own} {place} {row['similarity']:.4f} {row['full_gradient']:.4f}") == 2
    assert said.count("model_generated answer lima_3") == 2, "each has its own variant"
    assert said.count(f"{under.ranked['original_id'][0]} ") and "original answer" in said
    assert f'href="/reports/org--model/#model_generated/lima_3/{component}"' in page
    assert page.count("<circle") == 2 * (len(under.places) + 1), "every component, and a ring around the chosen one"
    assert f"{component}: {next(p.own for p in under.places if p.component == component):.4f}" in html.unescape(page)


def test_the_paired_difference_is_that_of_the_comparison(site: WebHome) -> None:
    said = text(site.get(PLACE)[1])
    row = site.case.settings["paraphrased"].controls.filter(component=FULL_GRADIENT).row(0, named=True)
    assert f"a difference of {row['difference']:+.3f}" in said
    assert f"paired 95 % interval {row['difference_low']:.3f} to {row['difference_high']:.3f}" in said
    compared = site.get("/compare?model=org--model")[1]
    assert "/compare/sample?first=org--model&amp;second=org--model%2Buntrained&amp;setting=paraphrased" in compared


def test_what_is_left_out_is_chosen_and_another_original_can_be_read(site: WebHome) -> None:
    page = site.get(PLACE)[1]
    (sample,) = re.findall(r"<option selected>(lima_\d+)</option>", page)
    assert f"<title>{sample}, {MODEL} beside {CONTROL}" in page
    other = next(name for name in re.findall(r"original=(lima_\d+)", page) if name != sample)
    read = text(site.get(f"{PLACE}&sample={sample}&original={other}")[1])
    assert read.count(f"Candidate {other} user original question {other}") == 2
    assert "There is no variant lima_9999 that both" in text(site.get(f"{PLACE}&sample=lima_9999")[1])


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("first=org--model&second=org--nobody", "There is no model org--nobody here"),
        ("first=org--model&second=org--bare", "org/bare has no paraphrased similarities yet; `gradsim run org/bare` makes them."),
        ("first=org--model&second=org--old%40v1&setting=other", "There is no setting other"),
        ("first=org--model&second=org--model&component=nothing", "Not both of these models have a component nothing."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said_in_a_sentence(site: WebHome, query: str, sentence: str) -> None:
    status, page = site.get(f"/compare/sample?{query}")
    assert status == 404 and sentence in text(page)


def test_scripts_are_served_by_their_names_alone(site: WebHome) -> None:
    assert site.get("/scripts/library-texts.js")[1].count("TextLibraries") >= 1
    assert site.get("/scripts/page.py")[0] == site.raw("/scripts/..%2fpage.py")[0] == 404


@pytest.mark.ui
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (768, False), (390, False)])
def test_two_reports_side_by_side_in_a_browser(browser, site: WebHome, width: int, dark: bool) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"{site.address}{PLACE}&sample=lima_3")
    page.wait_for_selector("body[data-read]")
    assert page.locator(".rendered").count() == 8 and page.locator(".side ins").count()
    assert page.evaluate("document.body.dataset.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(
        h >= 44 for h in page.evaluate("[...document.querySelectorAll('.button, select')].map((b) => b.offsetHeight)")
    )
    assert violations(page) == []
    page.check("#raw")
    assert page.locator(".rendered").count() == 0
    # A choice is a place of its own, which the address names.
    with page.expect_navigation():
        page.select_option('[name="component"]', "model.layers.1.mlp.up_proj.weight")
    page.wait_for_selector("body[data-read]")
    assert "sample=lima_3" in page.url and "component=model.layers.1.mlp.up_proj.weight" in page.url
    with page.expect_navigation():
        page.locator(".side .pick").nth(2).click()
    assert "original=" in page.url and page.locator('tr[aria-current="true"]').count() == 2
    assert errors == []
