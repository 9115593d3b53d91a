"""Pages of Dagster's UI in Chromium: how long each takes, what it asks for meanwhile, and a picture of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsim_assets_tests.support.browser import launch_chromium
from gradsim_assets_tests.support.running_platform import Platform

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request


@dataclass(frozen=True)
class Visit:
    """A page by its path, a text that it shows once it is there, and what to do on it."""

    name: str
    path: str
    shows: str
    act: Callable[["Page"], None] | None = None


def _open_dialog(page: "Page") -> None:
    page.get_by_role("button", name="Materialize").first.click()
    for dimension in (0, 1):
        page.get_by_role("button", name="All", exact=True).nth(dimension).click()
    page.wait_for_function("/[1-9][0-9,]* partitions/.test(document.querySelector('[role=dialog]')?.innerText)")


VISITS = (
    Visit("catalog", "/assets", "dot_products"),
    Visit("groups", "/asset-groups", "similarity"),
    Visit("lineage", "/assets/dot_products_paraphrased?view=lineage", "bm25_candidates"),
    Visit("partitions", "/assets/dot_products_paraphrased?view=partitions", "model-00"),
    Visit("overview", "/assets/dot_products_paraphrased?view=overview", "Exact products"),
    Visit("checks", "/assets/dot_products_paraphrased?view=checks", "sound"),
    Visit("dialog", "/assets/dot_products_paraphrased?view=partitions", "model-00", _open_dialog),
    Visit("automation", "/automation", "rerun_on_model_revision"),
    Visit("backfills", "/runs?view=backfills", "Canceled"),
)


def visit(platform: Platform, folder: Path, visits: Sequence[Visit] = VISITS) -> dict[str, Any]:
    """By page: seconds until it shows its content, the slowest GraphQL request and its seconds, and how many there were."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    with sync_playwright() as playwright:
        chromium = launch_chromium(playwright)
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(180_000)
        requests: list[tuple[float, str]] = []

        def finished(request: "Request") -> None:
            if "/graphql" in request.url and request.method == "POST":
                name = (request.post_data_json or {}).get("operationName")
                requests.append((request.timing["responseEnd"] / 1000, str(name)))

        page.on("requestfinished", finished)
        for target in (VISITS[0], *visits):  # the first page is warmed up
            requests.clear()
            started = time.perf_counter()
            page.goto(f"http://127.0.0.1:{platform.port}{target.path}")
            page.get_by_text(target.shows).first.wait_for()
            if target.act:
                target.act(page)
            shown = time.perf_counter() - started
            page.wait_for_timeout(4000)  # what is loaded behind the first content
            page.screenshot(path=folder / f"{target.name}.png")
            slowest, name = max(requests, default=(0.0, ""))
            found[target.name] = {
                "shown_seconds": round(shown, 2),
                "slowest_request": name,
                "slowest_seconds": round(slowest, 2),
                "requests": len(requests),
            }
            print(target.name, found[target.name], flush=True)
        chromium.close()
    return found
