"""The page under its own policy, in a browser of any size."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradsim_assets_tests.support.report_case import Case


@pytest.fixture(scope="package")
def case() -> Case:
    return Case()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report and gives the page, whose `asked` are the addresses that it asked for."""
    errors: list[str] = []

    def opened(html: str, width: int = 1280, dark: bool = False, address: str = "#paraphrased/lima_1") -> Any:
        (tmp_path / "index.html").write_text(html, encoding="utf-8")
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((tmp_path / "index.html").as_uri() + address)
        page.wait_for_selector("body[data-plots]")
        return page

    yield opened
    # Of the policy's own words one test makes use.
    assert [error for error in errors if "Content Security Policy" not in error] == []
