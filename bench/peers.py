"""The engine beside other tools: the same model, samples and pairs; time, memory, coverage and error.

`make bench-peers` installs them into an environment of their own. All variants are compared with all originals, since none of
the others can be given a list of pairs. Prints tables and writes build/bench/peers.json.

    python -m bench.peers                          everything
    python -m bench.peers --parts time_short       one part: time_lima, time_short, coverage, memory
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from bench.engine import interleaved, ratio
from bench.peer_tools import (
    WHOLE,
    MakeModel,
    Prepared,
    Samples,
    Scores,
    Tool,
    bergson,
    dattri,
    dattri_llm,
    gradsim,
    kronfluence,
)
from bench.workload import demo_model, lima_lengths, make_pairs, make_samples
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
from gradsim_assets.core.gradients.engine.pair_checks import plain_products, relative_error
from gradsim_assets.core.sample_gradients.reference import PlainAutograd

#: Products that are off by less than this are right; what rounding does is a hundred times smaller.
EXACT = 1e-5

#: Tools, and the batches that each is tried with: samples at a time (0: it packs them itself), or all at once.
ALL = -1
TOOLS: dict[str, tuple[Tool, tuple[int, ...]]] = {
    "gradsim": (gradsim, (0,)),
    "bergson": (bergson, (0, 1, ALL)),
    "dattri-llm": (dattri_llm, (1, 4, ALL)),
    "kronfluence": (kronfluence, (1, 4, ALL)),
    "dattri": (dattri, (1,)),
}

VOCABULARY = 512


@dataclass(frozen=True)
class Workload:
    """A model and a grid of samples."""

    make: MakeModel
    variants: Samples
    originals: Samples

    def prepared(self, tool: Tool, batch: int) -> Prepared:
        """The tool, ready for this work."""
        return tool(self.make, self.variants, self.originals, len(self.originals) if batch == ALL else batch)


def _work(lengths: tuple[np.ndarray, np.ndarray], make: MakeModel = demo_model, vocabulary: int = 8192) -> Workload:
    return Workload(make, make_samples(lengths[1], vocabulary, 1), make_samples(lengths[0], vocabulary, 0))


def lima_work(count: int) -> Workload:
    """Lengths as those of LIMA."""
    return _work((lima_lengths(count, 0), lima_lengths(count, 1)))


def short_work(count: int) -> Workload:
    """100 to 200 tokens, where padded batches win."""
    random = np.random.default_rng(0)
    return _work((random.integers(100, 201, count), random.integers(100, 201, count)))


WORK: dict[str, Callable[[int], Workload]] = {"time_lima": lima_work, "time_short": short_work}


def _from_config(kind: str, **changes: Any) -> MakeModel:
    def make() -> torch.nn.Module:
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, kind)(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **changes)
        # The grouped kernel of experts knows no float64, which the reference is in.
        config._experts_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        # Norms and biases begin at one and nought, where some errors cancel.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return model

    return make


_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

#: Models that differ in what they are made of.
MODELS: dict[str, MakeModel] = {
    "OLMo: tied embedding": lambda: demo_model(64, 2, VOCABULARY),
    "Llama: norms, grouped queries": _from_config("LlamaConfig", **_LLAMA),
    "GPT-2: biases, norms, positions, tied": _from_config("GPT2Config", n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "Mixtral: experts, router": _from_config("MixtralConfig", num_local_experts=4, **_LLAMA),
}


def error(work: Workload, scores: Scores, rows: range) -> dict[str, float]:
    """Errors of some pairs against float64 autograd, and how many components have exact products of their own.

    `components`: those alone. `parameters`: the share of all parameters whose product is right, alone or with its layer's bias.
    """
    model = work.make().double()
    named = dict(model.named_parameters())
    names = list(named)
    pairs = [(variant, original) for variant in work.variants for original in work.originals]
    plain = PlainAutograd(model, list(named.values()), "cpu")
    exact = plain_products(plain, [pairs[row] for row in rows])
    groups = {name: names if name == WHOLE else name.split(" + ") for name in scores}
    taken = np.stack([exact[..., [names.index(one) for one in group]].sum(-1) for group in groups.values()], axis=-1)
    found = np.stack([scores[name].ravel()[list(rows)] for name in groups], axis=1)
    off = relative_error(found, taken[:, 0], taken[:, 1], taken[:, 2]).max(0)
    right = [group for group, one in zip(groups.values(), off, strict=True) if one < EXACT]
    sizes = {name: parameter.numel() for name, parameter in named.items()}
    return {
        "components": sum(len(group) == 1 for group in right),
        "of": len(names),
        "parameters": sum(sizes[name] for group in right for name in group) / sum(sizes.values()),
        "median_error": float(np.median(off)),
        "largest_error": float(off.max()),
    }


def _some(work: Workload) -> range:
    pairs = len(work.variants) * len(work.originals)
    return range(0, pairs, max(1, pairs // 8))


def _top_five(work: Workload) -> Callable[[], object]:
    """Ours, for the five candidates that BM25 would leave of each variant's originals."""
    request = PassRequest(
        list(work.originals), {"x": list(work.variants)}, {"x": make_pairs(len(work.variants), 5, 3)}, frozenset({"x"})
    )
    model = work.make()
    return lambda: run_pass(model, request, PassOptions(check_pairs=0))


def times(work: Workload, runs: int) -> dict[str, dict[str, Any]]:
    """Seconds of every tool with its fastest batches, as a ratio to ours within a round, and errors."""
    jobs = {(name, batch): work.prepared(tool, batch) for name, (tool, batches) in TOOLS.items() for batch in batches}
    last: dict[str, Scores] = {}
    builds: dict[str, list[float]] = {}

    def run(name: str, job: Prepared) -> None:
        started = perf_counter()
        built = job.build()
        builds.setdefault(name, []).append(perf_counter() - started)
        last[name] = job.query(built)

    labels = {f"{name}|{batch}": job for (name, batch), job in jobs.items()}
    todo: dict[str, Callable[[], object]] = {label: lambda n=label, j=job: run(n, j) for label, job in labels.items()}
    seconds = interleaved(runs, {**todo, "top five": _top_five(work)})
    table = {}
    for name, (_, batches) in TOOLS.items():
        best = min((f"{name}|{batch}" for batch in batches), key=lambda label: statistics.median(seconds[label]))
        table[name] = {
            "batch": int(best.rpartition("|")[2]),
            "seconds": statistics.median(seconds[best]),
            "of_which_build": statistics.median(builds[best][1:]),
            "times_gradsim": ratio(seconds, best, "gradsim|0"),
            "times_gradsim_top_5": ratio(seconds, best, "top five"),
            **error(work, last[best], _some(work)),
        }
    return table


def coverage(count: int) -> dict[str, dict[str, Any]]:
    """What each tool makes of every kind of component; of one that cannot take a model the reason."""
    lengths = np.random.default_rng(1).integers(24, 48, (2, count))
    found: dict[str, dict[str, Any]] = {}
    for kind, make in MODELS.items():
        work = _work((lengths[0], lengths[1]), make, VOCABULARY)
        for name, (tool, _) in TOOLS.items():
            try:
                row: dict[str, Any] = error(work, work.prepared(tool, 1)(), _some(work))
            except Exception as failure:  # of any kind: the tool is not ours
                row = {"refused": f"{type(failure).__name__}: {str(failure).splitlines()[0]}"}
            found[f"{kind} | {name}"] = row
    return found


def _peak_bytes() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def own_peak(name: str, part: str, batch: int, count: int) -> int:
    """Bytes that a tool holds at most beside its model and what is imported, in this process."""
    tool, _ = TOOLS[name]
    work = WORK[part](count)
    small = Workload(work.make, work.variants[:1], work.originals[:1])
    small.prepared(tool, 1)()
    job = work.prepared(tool, batch)
    # Linux forgets the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    job()
    return _peak_bytes() - before


def memory(best: Mapping[str, Mapping[str, Any]], part: str, count: int) -> dict[str, float]:
    """GiB of every tool with the batches that were fastest, each in a process of its own."""
    found = {}
    for name in TOOLS:
        asked = ["--own-peak", name, part, str(best[name]["batch"]), "--samples", str(count)]
        said = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "bench.peers", *asked], capture_output=True, text=True, check=True
        )
        found[name] = int(said.stdout.split()[-1]) / 2**30
    return found


def _show(title: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"\n{title}")
    for name, row in table.items():
        cells = (
            f"{key} {value:.3g}" if isinstance(value, float | int) else f"{key} {value}" for key, value in row.items()
        )
        print(f"  {name:52}" + "  ".join(cells), flush=True)


def main() -> None:
    """Runs all and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["time_lima", "time_short", "coverage", "memory"])
    parser.add_argument("--samples", type=int, default=10, help="originals, and as many variants")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench/peers.json"))
    parser.add_argument("--own-peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.own_peak:
        name, part, batch = arguments.own_peak
        print(own_peak(name, part, int(batch), arguments.samples))
        return
    found: dict[str, Any] = {}
    for part in [part for part in WORK if part in arguments.parts]:
        found[part] = times(WORK[part](arguments.samples), arguments.runs)
        if "memory" in arguments.parts:
            for name, gib in memory(found[part], part, arguments.samples).items():
                found[part][name]["peak_gib"] = gib
        _show(part, found[part])
    if "coverage" in arguments.parts:
        found["coverage"] = coverage(3)
        _show("coverage", found["coverage"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
