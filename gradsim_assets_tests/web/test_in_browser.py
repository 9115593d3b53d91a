"""The pages in a real browser (mark `ui`): from the front page to a report, a comparison and back, on screens of all sizes."""

from collections.abc import Iterator

import pytest

from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.web_home import CONTROL, MODEL, WebHome

pytestmark = pytest.mark.ui


@pytest.fixture
def open_page(browser, site: WebHome) -> Iterator:
    errors: list[str] = []

    def opened(path: str = "/", width: int = 1280, dark: bool = False):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(site.address + path)
        return page

    yield opened
    assert errors == []


def test_from_the_front_page_to_a_report_and_a_comparison(open_page, site: WebHome) -> None:
    page = open_page()
    page.wait_for_selector("body[data-states]", timeout=60_000)
    assert "missing" in page.inner_text('[data-state="org--model"]')
    page.click("article#org--model >> text=Open report")
    page.wait_for_selector("body[data-plots]")
    assert page.url == f"{site.address}/reports/org--model/" and page.inner_text("h1") == MODEL
    assert page.evaluate("scrollY") == 0, "it opens at its top"
    page.go_back()
    for slug in ("org--model", "org--model+untrained"):
        page.check(f'input[value="{slug}"]')
    page.click("text=Compare the chosen")
    assert page.inner_text("h1") == "Models side by side"
    listed = page.locator("tbody th").all_inner_texts()
    assert listed.count(CONTROL) == 4 and listed.count(MODEL) == 2, "figures and differences, in both settings"


@pytest.mark.parametrize("path", ["/", "/compare?model=org--model"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_pages_fit_the_screen_and_what_is_touched_is_large_enough(open_page, path: str, width: int) -> None:
    page = open_page(path, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wider = "all => all.filter((one) => one.offsetWidth > one.closest('.scroll').clientWidth).length"
    assert page.locator(".scroll caption").evaluate_all(wider) == 0, "what tables say is read without scrolling"
    heights = page.evaluate("[...document.querySelectorAll('.button, .choose')].map((b) => b.offsetHeight)")
    assert all(height >= 44 for height in heights)


@pytest.mark.parametrize("path", ["/", "/compare?model=org--model", "/compare?model=org--bare"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_everybody_can_read_them(open_page, path: str, width: int, dark: bool) -> None:
    page = open_page(path, width, dark)
    if path == "/":
        page.wait_for_selector("body[data-states]", timeout=60_000)
    assert violations(page) == []
