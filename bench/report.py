"""How large a report of the paper's size is, and how long a browser needs to open it: 988 variants x 5 x 113 components, two settings.

    python -m bench.report [--variants 988] [--candidates 5] [--blocks 16] [--texts originals.parquet]

Without `--texts` the texts are those of the demo, strung together to LIMA's lengths, which compress better than real ones; the file
has a column messages. Prints the figures and writes build/bench/report.json; needs Chromium.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.workload import LIMA_QUANTILES
from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.greedy_selection import greedy_selection
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.report import SettingResults, render_report
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import MESSAGES, SETTINGS
from gradsim_assets.demo.data import load_originals
from gradsim_assets_tests.support.analysis_data import block_names, bm25, projected, realistic
from gradsim_assets_tests.support.browser import launch_chromium

OUTPUT = Path("build/bench/report.json")

#: Characters a token, as LIMA's counts were taken.
CHARACTERS = 4.3


def conversations(path: Path | None) -> list[list[dict[str, str]]]:
    """The texts of a file, or the demo's at LIMA's lengths."""
    if path is not None:
        found: list[list[dict[str, str]]] = pl.read_parquet(path)["messages"].to_list()
        return found
    samples = [row["messages"] for row in load_originals()]
    answers = itertools.cycle([messages[-1]["content"] for messages in samples])
    lengths = np.interp(np.linspace(0, 20, 988), range(21), LIMA_QUANTILES) * CHARACTERS
    return [
        [samples[n % len(samples)][0], {"role": "assistant", "content": _strung(answers, int(length))}]
        for n, length in enumerate(lengths)
    ]


def _strung(answers: Iterator[str], length: int) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        parts.append(next(answers))
    return "\n\n".join(parts)[:length]


def _texts(ids: Sequence[str], all_texts: list[list[dict[str, str]]], shift: int) -> pl.DataFrame:
    rows = [{"id": name, "messages": all_texts[(n + shift) % len(all_texts)]} for n, name in enumerate(ids)]
    frame = pl.DataFrame(rows, schema={"id": pl.String, "messages": MESSAGES})
    return frame.with_columns(text_overlap=pl.lit(40.0), verbatim=pl.lit(False))


def page(variants: int, candidates: int, blocks: int, texts: Path | None) -> tuple[str, float]:
    """The report, and the seconds that it took to be written out of its tables."""
    names = block_names(blocks)
    sizes = {name: 11_000_000 if "mlp" in name else 4_194_304 for name in names} | {names[0]: 103_000_000}
    parameters, all_texts, settings = parameters_per_component(sizes), conversations(texts), {}
    for place, setting in enumerate(SETTINGS):
        table = realistic(variants, candidates, names, place)
        pairs, scores = PairProducts.from_frame(table), bm25(table)
        settings[setting] = SettingResults(
            gradient_similarity(pairs),
            accuracy_per_component(pairs, parameters),
            agreement(pairs, parameters),
            greedy_selection(pairs, parameters, splits=2),
            self_similarity(pairs, parameters),
            retrieval(pairs, projected(table), scores, parameters),
            scores,
            _texts(pairs.candidates.variants, all_texts, 1 + place),
        )
    originals = _texts(pairs.candidates.variants, all_texts, 0)
    started = time.perf_counter()
    html = render_report("org/model", "abc", parameters, settings, originals)
    return html, time.perf_counter() - started


def opened(html: str, times: int = 5) -> dict[str, float]:
    """Medians over openings by a fresh browser context, in seconds: the explorer answers; texts are rendered and plots there; and the processor time of the page's own thread."""
    from playwright.sync_api import sync_playwright

    path = OUTPUT.parent / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    found: dict[str, list[float]] = {"explorer": [], "plots": [], "processor": []}
    with sync_playwright() as playwright:
        chromium = launch_chromium(playwright)
        for _ in range(times + 1):  # the first warms up
            tab = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
            tab.add_init_script(
                """window.seen = {};
                new MutationObserver(() => {
                  for (const name of ["ready", "plots"]) if (document.body?.dataset[name]) window.seen[name] ??= performance.now();
                }).observe(document, { subtree: true, attributes: true, childList: true });"""
            )
            session = tab.context.new_cdp_session(tab)
            session.send(
                "Performance.enable", {"timeDomain": "threadTicks"}
            )  # time of the processor, whatever else runs
            tab.goto(path.absolute().as_uri())
            tab.wait_for_selector("body[data-plots]", timeout=120_000)
            seen = tab.evaluate("window.seen")
            used = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
            found["explorer"].append(seen["ready"] / 1000)
            found["plots"].append(seen["plots"] / 1000)
            found["processor"].append(used["TaskDuration"])
            tab.context.close()
        chromium.close()
    return {name: round(statistics.median(values[1:]), 2) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=988)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=16, help="7 components each, and the embedding")
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    html, seconds = page(options.variants, options.candidates, options.blocks, options.texts)
    results: dict[str, Any] = {
        "megabytes": round(len(html.encode()) / 1e6, 2),
        "written_seconds": round(seconds, 1),
        "opened_seconds": opened(html),
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
    print(json.dumps(results, indent=2))
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
