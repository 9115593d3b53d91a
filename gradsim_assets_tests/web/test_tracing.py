"""Traces over HTTP, but for the tracing itself: see `end_to_end/test_trace.py`."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tracing.page import render_trace
from gradsim_assets.web.tracing import MOST_BYTES
from gradsim_assets_tests.core.tracing.test_stored_traces import EVIL, stored
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.web_home import MODEL, PagesServer, WebHome

SLUG = model_slug(MODEL)


@pytest.fixture(scope="module")
def traced(site: WebHome) -> Iterator[str]:
    """The id of a trace that is kept in the home; its texts are evil."""
    trace, samples = stored()
    trace = replace(trace, provenance={**trace.provenance, "traced": "2026-11-27T12:00:00+00:00"})
    trace.save(site.home.traces(SLUG), render_trace(trace, samples, 20))
    yield trace.id


def test_what_was_traced_is_listed_and_served_and_no_text_is_read_as_html(site: WebHome, traced: str) -> None:
    status, page = site.get("/trace")
    assert status == 200 and f'href="/traces/{SLUG}/{traced}/"' in page and "<img" not in page
    assert page.count("<script") == 1, "our own"
    status, found = site.get(f"/traces/{SLUG}/{traced}/")
    assert status == 200 and "Which originals does this answer go back to?" in found and EVIL not in found


@pytest.mark.parametrize(
    "path", [f"/traces/{SLUG}/none/", "/traces/org--none/x/", f"/traces/{SLUG}/..%2F..%2F../", "/api/trace/none"]
)
def test_a_trace_that_is_not_there_is_not_found(site: WebHome, traced: str, path: str) -> None:
    status, told = site.raw(path)
    assert status == 404 and "Traceback" not in told
    if path.startswith("/api"):
        assert json.loads(told)["error"].startswith("There is no such trace on its way")


def test_bad_questions_get_their_status_and_a_sentence(site: WebHome) -> None:
    good = {"model": MODEL, "prompt": "Why?"}
    assert site.post("/api/trace", {**good, "model": "org/none"}) == (
        404,
        {"error": "org/none is not registered here."},
    )
    assert site.post("/api/trace", {**good, "prompt": 3})[0] == 422
    assert site.post("/api/trace", {**good, "wait": 1e9})[0] == 422
    status, told = site.post("/api/trace", {**good, "prompt": "x" * (10 * 2**20)})
    assert status == 413 and f"{MOST_BYTES} are the most" in told["error"]
    status, told = site.post("/api/trace", good, {"Host": "evil.example"})
    assert status == 400 and told == {"error": "This server is not evil.example."}
    assert site.raw("/api/trace", "POST")[0] == 411


def test_a_model_without_originals_fails_with_the_mend(site: WebHome) -> None:
    status, told = site.post("/api/trace", {"model": MODEL, "prompt": "Why?", "wait": 120})
    assert status == 409 and told["state"] == "failed"
    assert told["error"] == "the originals are missing or out of date; `gradsim run MODEL --only datasets` makes them."


def test_candidates_that_are_none_are_refused_by_their_sentence(site: WebHome) -> None:
    status, told = site.post("/api/trace", {"model": MODEL, "prompt": "Why?", "against": "faiss:3", "wait": 120})
    assert status == 409 and told["error"].startswith('"faiss:3" names no candidates; write "all"')


@pytest.mark.parametrize("options", [(), ("--warm",)])
def test_torch_is_imported_when_the_page_is_opened_or_as_a_server_for_traces_starts(
    site: WebHome, options: tuple[str, ...]
) -> None:
    def has_torch(server: PagesServer, within_seconds: float) -> bool:
        deadline = time.monotonic() + within_seconds
        while "libtorch_cpu" not in Path(f"/proc/{server.pid}/maps").read_text():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    with PagesServer(site.home.folder, *options) as server:
        if not options:
            assert server.get("/")[0] == 200
            assert not has_torch(server, within_seconds=3), "nobody has shown that he will trace anything"
            assert server.get("/trace")[0] == 200
        assert has_torch(server, within_seconds=120)
        assert server.get("/trace")[0] == 200, "which is served meanwhile"


def test_the_call_is_described_for_programs(site: WebHome) -> None:
    described = json.loads(site.get("/api/openapi.json")[1])
    assert set(described["paths"]) == {"/api/trace", "/api/trace/{job_id}", "/api/reports/{slug}/{setting}"}


@pytest.mark.ui
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_everybody_can_read_the_pages(browser, site: WebHome, traced: str, width: int, dark: bool) -> None:
    for path in ("/trace", f"/traces/{SLUG}/{traced}/"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.goto(site.address + path)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.ui
def test_the_form_tells_what_went_wrong(browser, site: WebHome) -> None:
    page = browser.new_page()
    page.goto(f"{site.address}/trace?model={SLUG}")
    assert page.input_value("[name=model]") == MODEL
    page.fill("[name=prompt]", "Why?")
    page.click("[type=submit]")
    page.wait_for_function(
        "document.querySelector('#status').textContent.includes('originals are missing')", timeout=120_000
    )
    assert page.is_enabled("[type=submit]") and page.is_hidden("#cancel")
