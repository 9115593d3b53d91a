"""Pages that only show what there is, as a control plane without torch serves them."""

from collections.abc import Iterator

import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tracing.page import render_trace
from gradsim_assets_tests.core.tracing.test_stored_traces import stored
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.web_home import MODEL, PagesServer, WebHome

SLUG = model_slug(MODEL)


@pytest.fixture(scope="module")
def shown(site: WebHome) -> Iterator[PagesServer]:
    """A second server of the home, without torch and without a part in tracing."""
    trace, samples = stored()
    trace.save(site.home.traces(SLUG), render_trace(trace, samples, 20))
    with PagesServer(site.home.folder, read_only=True) as server:
        yield server


def test_it_shows_models_reports_comparison_and_what_was_traced_and_writes_nothing(
    site: WebHome, shown: PagesServer
) -> None:
    before = {name: content for name, content in site.files().items() if "/dagster/" not in name}
    for path in ("/", "/states", f"/reports/{SLUG}/", "/compare", f"/compare?model={SLUG}", "/trace", "/health"):
        assert shown.get(path)[0] == 200, path
    assert {name: content for name, content in site.files().items() if "/dagster/" not in name} == before
    page = shown.get("/trace")[1]
    assert f'href="/traces/{SLUG}/' in page and "<form" not in page and "<script" not in page


def test_nothing_can_be_asked_and_programs_are_told_whom_to_ask(site: WebHome, shown: PagesServer) -> None:
    assert "Trace an answer" not in shown.get("/")[1] and "Trace an answer" in site.get("/")[1]
    status, told = shown.post("/api/trace", {"model": MODEL, "prompt": "Why?"})
    assert status == 403 and told["error"].endswith("ask the trace server.")
    assert set(shown.json("/api/openapi.json")[1]["paths"]) == {"/api/reports/{slug}/{setting}"}
    found = shown.json(f"/api/reports/{SLUG}/paraphrased?find=lima_3")
    assert found[0] == 200 and "lima_3" in found[1]["texts"]["variants"]["paraphrased"], "which reports ask for"
    assert shown.get("/api/trace/none")[0] in (404, 405)


@pytest.mark.ui
def test_everybody_can_read_what_was_traced(browser, shown: PagesServer) -> None:
    page = browser.new_page()
    page.goto(f"{shown.address}/trace")
    assert violations(page) == []
