"""Traces on disk, and their page in a real browser (mark `ui`)."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tables.schemas import TRACE_TOKENS, TRACES
from gradsim_assets.core.tracing.page import render_trace
from gradsim_assets.core.tracing.stored_traces import StoredTrace, traces_in
from gradsim_assets_tests.support.browser import CHROMIUM, launch_chromium

EVIL = (
    "</script><script>document.body.dataset.broken='yes'</script><img src=x onerror=\"document.body.dataset.broken=1\">"
)


def stored(trace_id: str = "0123456789abcdef", split: int = 2) -> tuple[StoredTrace, dict[str, Sample]]:
    """A trace of evil texts to four evil originals, the tokens of the best `split` with it."""
    samples = {name: Sample(name, f"{name} {EVIL}", f"answer of {name} {EVIL}") for name in ("a", "b", "c", EVIL)}
    originals = TRACES.enforce(
        pl.DataFrame(
            [
                {
                    "original_id": name,
                    "rank": rank,
                    "similarity": 0.5 / rank if rank < 4 else None,
                    "dot_product": 1.0 / rank if rank < 4 else None,
                    **dict.fromkeys(FAMILIES, 0.25),
                    "norm": None,
                    "text_overlap": 31.4,
                    "bm25_score": 1.5,
                    "bm25_rank": rank,
                    "answer_share": 0.5 if rank <= split else None,
                }
                for rank, name in enumerate(samples, 1)
            ]
        )
    )
    tokens = [
        {
            "original_id": name,
            "side": side,
            "position": position,
            "text": text,
            "counted": position > 0,
            "contribution": [0.0, 2.0, -1.0][position],
        }
        for name in list(samples)[:split]
        for side in ("answer", "original")
        for position, text in enumerate(("<|user|>", f"{side} {EVIL}", " egg"))
    ]
    frame = TRACE_TOKENS.enforce(pl.DataFrame(tokens)) if tokens else TRACE_TOKENS.empty()
    provenance = {"model": f"org/{EVIL}", "revision": "abc"}
    return StoredTrace(trace_id, f"Why? {EVIL}", f"So. {EVIL}", True, "cosine", provenance, originals, frame), samples


def test_a_trace_is_read_back_as_it_was_and_the_first_of_one_id_stays(tmp_path):
    trace, samples = stored()
    folder = trace.save(tmp_path, render_trace(trace, samples, 20))
    found = StoredTrace.load(folder)
    assert found.originals.equals(trace.originals) and found.tokens.equals(trace.tokens)
    assert {name: getattr(found, name) for name in ("id", "prompt", "answer", "generated", "method", "provenance")} == {
        name: getattr(trace, name) for name in ("id", "prompt", "answer", "generated", "method", "provenance")
    }
    assert trace.save(tmp_path, "another page") == folder
    assert (folder / "index.html").read_text() != "another page"
    stored("f" * 16)[0].save(tmp_path, "page")
    assert [one.name for one in traces_in(tmp_path)] == ["f" * 16, "0123456789abcdef"]


@pytest.mark.parametrize("file", ["trace.json", "traces.parquet", "trace_tokens.parquet"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:20])])
def test_a_damaged_trace_is_refused_with_what_mends_it(file, damage, tmp_path):
    folder = stored()[0].save(tmp_path, "page")
    damage(folder / file)
    with pytest.raises(InputError, match="holds no whole trace .*; remove the folder and trace the text again"):
        StoredTrace.load(folder)


def test_kills_leave_whole_traces_or_none(tmp_path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from gradsim_assets_tests.core.tracing.test_stored_traces import stored
        print("ready", flush=True)
        for number in range(10**6):
            stored(f"{number:016x}")[0].save(Path(sys.argv[1]), "page" * 50000)
    """)
    for lived in (0.02, 0.05, 0.08):
        worker = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        while not traces_in(tmp_path):  # a machine at work takes its time
            time.sleep(0.005)
        time.sleep(lived)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    found = traces_in(tmp_path)
    assert found
    for folder in found:
        assert StoredTrace.load(folder).id == folder.name and (folder / "index.html").stat().st_size == 200000


def test_no_text_can_end_the_script_that_holds_it():
    page = render_trace(*stored(), 20)
    assert page.count("</script>") == 2 and "<img" not in page
    (data,) = [part.split("</script>")[0] for part in page.split('id="data">')[1:]]
    assert [one["original_id"] for one in json.loads(data)["originals"]] == ["a", "b", "c", EVIL]


@pytest.mark.ui
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_choosing_an_original_shows_its_text_and_colours_both(tmp_path):
    from playwright.sync_api import sync_playwright

    trace, samples = stored()
    folder = trace.save(tmp_path, render_trace(trace, samples, 20))
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        page, said = browser.new_page(viewport={"width": 390, "height": 800}), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{folder / 'index.html'}#b")
        assert page.locator("#chosen").inner_text() == "b, rank 2", "the address names it"
        spans = page.locator("#traced span")
        assert spans.all_inner_texts() == ["<|user|>", f"answer {EVIL}", " egg"]
        colours = spans.evaluate_all("spans => spans.map(span => span.style.background)")
        assert colours[0] == "" and "--for), 0.600" in colours[1] and "--against), 0.300" in colours[2]
        assert spans.nth(1).get_attribute("title") == "200.0 % of the product"
        page.get_by_role("button", name="c", exact=True).click()
        assert page.locator("#chosen").inner_text() == "c, rank 3" and page.url.endswith("#c")
        assert "were not split" in page.locator("#unsplit").inner_text()
        assert f"answer of c {EVIL}" in page.locator("#original").inner_text()
        page.get_by_role("button", name=EVIL).click()
        assert page.locator("tbody tr").last.locator("td").nth(2).inner_text() == "–", "an undefined cosine"
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "a phone does not scroll sideways"
        assert page.locator("body").get_attribute("data-broken") is None and not said
        browser.close()
