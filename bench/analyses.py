"""How long every analysis takes on a table of the paper's size: 988 variants x 5 candidates x 113 components.

    python -m bench.analyses [--variants 988] [--candidates 5] [--blocks 16]

Prints seconds and writes build/bench/analyses.json.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.greedy_selection import CRITERIA, greedy_rounds, greedy_selection
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.plots import static
from gradsim_assets.core.analysis.report import SettingResults, render_report
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.exchange.scripts_format import read_scripts, write_scripts
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import block_names, bm25, projected, realistic

OUTPUT = Path("build/bench/analyses.json")


class Clock:
    """Runs steps and keeps their seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = step()
        self.seconds[name] = round(time.perf_counter() - start, 3)
        print(f"{name:<42}{self.seconds[name]:>9.3f} s", flush=True)
        return result


def run(variants: int, candidates: int, blocks: int) -> dict[str, Any]:
    """The times of all analyses on a generated table."""
    names = block_names(blocks)
    table = realistic(variants, candidates, names)
    print(f"{len(table):,} rows: {variants} variants x {candidates} candidates x {len(names)} components")
    clock = Clock()
    sizes = {name: 11_000_000 if "mlp" in name else 4_194_304 for name in names} | {names[0]: 103_000_000}
    parameters = clock("parameters_per_component", lambda: parameters_per_component(sizes))
    pairs = clock("read dot_products", lambda: PairProducts.from_frame(table))
    similarity = clock("gradient_similarity", lambda: gradient_similarity(pairs))
    accuracy = clock("accuracy_per_component (with intervals)", lambda: accuracy_per_component(pairs, parameters))
    agreed = clock("agreement", lambda: agreement(pairs, parameters))
    for criterion in CRITERIA:
        clock(f"greedy by {criterion}, same ids", partial(greedy_rounds, pairs, parameters, criterion))
    greedy = clock("greedy_selection (both, 10 halvings)", lambda: greedy_selection(pairs, parameters))
    own = clock("self_similarity", lambda: self_similarity(pairs, parameters))
    projections, scores = projected(table), bm25(table)
    found = clock("retrieval", lambda: retrieval(pairs, projections, scores, parameters))
    clock("plots", lambda: [*static.accuracy(accuracy, found, "paraphrased"), *static.greedy(greedy, found, "x")])
    results = SettingResults(similarity, accuracy, agreed, greedy, own, found, scores)
    page = clock(
        "report (one setting, without texts)", lambda: render_report("m", None, parameters, {"paraphrased": results})
    )
    with tempfile.TemporaryDirectory() as folder:
        where = (Path(folder), "org/model")
        clock(
            "export to the scripts' files",
            lambda: write_scripts(*where, "paraphrased", table, similarity, projections),
        )
        clock("import of the scripts' files", lambda: read_scripts(*where))
    return {
        "rows": len(table),
        "variants": variants,
        "candidates": candidates,
        "components": len(names),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "report_megabytes": round(len(page.encode()) / 1e6, 1),
        "seconds": clock.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=988)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=16, help="7 components each, and the embedding")
    options = parser.parse_args()
    results = run(options.variants, options.candidates, options.blocks)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {OUTPUT}")


if __name__ == "__main__":
    main()
