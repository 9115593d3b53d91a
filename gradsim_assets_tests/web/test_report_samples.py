"""Samples that a report does not hold, asked of the server that it comes from."""

from typing import Any
from urllib.parse import quote

import pytest

from gradsim_assets.core.analysis.report.explored import listed
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets_tests.support.report_case import EVIL, NAMES
from gradsim_assets_tests.support.web_home import BARE, MODEL, WebHome

SLUG = model_slug(MODEL)
MOST = 6 * 5 * (len(NAMES) + 1)  # six variants with five candidates


def ask(site: WebHome, wanted: str, slug: str = SLUG, setting: str = "paraphrased", more: str = "") -> tuple[int, Any]:
    return site.json(f"/api/reports/{slug}/{setting}?find={quote(wanted)}{more}")


def test_samples_are_found_by_id_and_by_text(site: WebHome) -> None:
    status, told = ask(site, "lima_3")
    here = told["data"]["settings"]["paraphrased"]
    assert status == 200 and here["variants"] == ["lima_3"] and here["of"] == 24
    assert told["texts"]["variants"]["paraphrased"]["lima_3"][1] == ["assistant", "paraphrased answer lima_3"]
    assert set(told["texts"]["originals"]) == set(here["originals"])
    assert len(ask(site, "PARAPHRASED question")[1]["data"]["settings"]["paraphrased"]["variants"]) == 20
    assert ask(site, "no such text")[1]["data"]["settings"]["paraphrased"]["variants"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ({"wanted": " "}, 409, "there is nothing to find"),
        ({"wanted": "a", "slug": "none"}, 404, "There is no model none here"),
        ({"wanted": "a", "slug": model_slug(BARE)}, 404, "has no results of paraphrased"),
        ({"wanted": "a", "setting": "..%2Fparaphrased"}, 404, "There is no such page"),
        ({"wanted": "a", "setting": "invented"}, 404, "has no results of invented"),
        ({"wanted": "a", "more": "&products=0123"}, 409, "are not those any more that this report was made from"),
    ],
)
def test_what_cannot_be_found_gets_its_status_and_a_sentence(
    site: WebHome, arguments: dict[str, Any], status: int, said: str
) -> None:
    got, told = ask(site, **arguments)
    assert got == status and said in told["error"]


@pytest.mark.ui
def test_a_page_of_a_part_shows_every_sample_as_a_page_of_all_does(browser: Any, site: WebHome) -> None:
    held = listed(site.case.settings["paraphrased"], MOST)
    others = [name for name in site.case.pairs["paraphrased"].candidates.variants if name not in held]
    place = site.home.report(SLUG) / "index.html"
    whole = place.read_text()

    def looked(page: Any) -> list[str]:
        page.wait_for_function("id => document.getElementById('sample-id').textContent === id", arg=others[3])
        return [page.inner_text(part) for part in ("#verdict", "#candidates tbody", "#original-text", "#variant-text")]

    def opened(address: str) -> Any:
        page = browser.new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.goto(f"{site.address}/reports/{SLUG}/{address}")
        page.wait_for_selector("body[data-plots]")
        return page

    expected = looked(opened(f"#paraphrased/{others[3]}"))
    place.write_text(site.case.html(most_similarities=MOST))
    try:
        page = opened("")
        assert f"holds {len(held)} of 24 samples" in page.inner_text("#part")
        page.fill("#search", f"paraphrased answer {others[3]}")
        assert looked(page) == expected
        assert f"holds {len(held) + 1} of 24" in page.inner_text("#part")
        assert page.evaluate("document.body.dataset.broken") is None and EVIL in page.inner_text("#variant-text")
        page.fill("#search", "")
        page.wait_for_function("n => document.querySelectorAll('#samples li').length === n", arg=len(held) + 1)
        # By an address, which somebody else shared; and in the other setting, whose samples are others.
        assert looked(opened(f"#paraphrased/{others[3]}")) == expected
        page.select_option("#setting", "model_generated")
        assert "of 24 samples" in page.inner_text("#part")
        site.home.tables.joinpath("retrieval/paraphrased").rename(site.home.tables / "away")
        page.select_option("#setting", "paraphrased")
        page.fill("#search", others[4])
        page.wait_for_function(
            "() => document.getElementById('part').textContent.includes('has no results of paraphrased')"
        )
    finally:
        place.write_text(whole)
        site.home.tables.joinpath("away").rename(site.home.tables / "retrieval/paraphrased")
