"""`python -m bench.engine`: how close a pass comes to bare forward and backward passes, and to what came before."""

import argparse
import copy
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from bench.baselines import in_batches, one_by_one, packed, plain_passes, scripts
from bench.workload import SETTINGS, demo_model, distinct_samples, lima_lengths, make_pairs, make_request
from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.loading import load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.sample_gradients.device_measurements import measure
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioners
from gradsim_assets.core.samples import parse_samples
from gradsim_assets.core.tables.schemas import PRECONDITIONERS
from gradsim_assets.demo.adapter import BASE, build_demo_adapter
from gradsim_assets.demo.data import load_originals, load_paraphrases

#: Plain passes are made in batches of so many samples, and of so many padded tokens; the fastest is what counts.
BATCHES = (1, 2, 4, 8, 16)
BATCH_TOKENS = (256, 512, 1024)
PROPORTIONS = (0.01, 0.05)

#: The check against plain autograd costs six passes a run, whatever its size; small benchmarks would show little else.
OPTIONS = PassOptions(check_pairs=0, memory_bytes=4 * 2**30)


def engine_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions = OPTIONS,
    preconditioners: Preconditioners | None = None,
) -> GradientPass:
    """A whole pass, its rows thrown away; includes verifying the model and planning."""
    work = GradientPass(model, request, options, preconditioners)
    work.run()
    return work


#: Wall clock, or with --cpu-time the processor time of this process: steady where other work shares the machine.
clock: Callable[[], float] = time.perf_counter


def interleaved(runs: int, jobs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of every job, in rounds, so that a slow spell of the machine falls on all of them."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(runs):
        for name, job in jobs.items():
            started = clock()
            job()
            times[name].append(clock() - started)
    return times


def ratio(times: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def plain_jobs(model: torch.nn.Module, samples: Sequence[EncodedSample]) -> dict[str, Callable[[], object]]:
    """Plain passes over the samples in batches of every kind, by the kind's name."""
    batches = {f"padded_{size}": in_batches(samples, size) for size in BATCHES}
    batches |= {f"packed_{tokens}": packed(samples, tokens) for tokens in BATCH_TOKENS}
    return {name: lambda made=made: plain_passes(model, made) for name, made in batches.items()}


def fastest(times: Mapping[str, list[float]]) -> str:
    """The kind of batch with the lowest median."""
    return min((name for name in times if name != "engine"), key=lambda name: statistics.median(times[name]))


def over_plain(samples: int, runs: int) -> dict[str, float | str]:
    """(a): LIMA's lengths, BM25-like top 5, both settings."""
    model, request = demo_model(), make_request(lima_lengths(samples, 0))
    bare = distinct_samples(request)
    jobs = {"engine": lambda: engine_pass(model, request), **plain_jobs(model, bare)}
    times = interleaved(runs, {**jobs, "plain": lambda: plain_passes(model, one_by_one(bare))})
    best = fastest(times)
    report = engine_pass(model, request).report
    return {
        "samples": len(bare),
        "passes_over_minimum": report.gradients_computed / report.samples,
        "seconds_engine": statistics.median(times["engine"]),
        "seconds_plain": statistics.median(times["plain"]),
        "pass_over_plain": ratio(times, "engine", "plain"),
        "pass_over_padded": ratio(times, "engine", best),
        "fastest_batches": best,
    }


def over_padded_short(samples: int, runs: int) -> dict[str, float | str]:
    """(a) on samples of 100 to 200 tokens, where padded batches win."""
    lengths = np.random.default_rng(0).integers(100, 201, samples)
    model, request = demo_model(), make_request(lengths)
    jobs = plain_jobs(model, distinct_samples(request))
    times = interleaved(runs, {"engine": lambda: engine_pass(model, request), **jobs})
    best = fastest(times)
    return {"pass_over_padded_short": ratio(times, "engine", best), "fastest_batches_short": best}


#: Kinds of batches that curvature is compared with; of larger ones none is fast at LIMA's lengths.
BARE = ("padded_1", "padded_2", "packed_1024")


def over_unpreconditioned(samples: int, runs: int) -> dict[str, float | str]:
    """What preconditioners cost: a pass with each over one without, factors at hand; and curvature over bare passes."""
    model, request = demo_model(), make_request(lima_lengths(samples, 0))
    with tempfile.TemporaryDirectory() as folder:
        stored = {kind: curvature(model, request.originals, kind, Path(folder, kind)) for kind in PRECONDITIONERS}
        jobs: dict[str, Callable[[], object]] = {"engine": lambda: engine_pass(model, request)}
        for kind, one in stored.items():
            asked = replace(request, preconditioned=dict.fromkeys(SETTINGS, (kind,)))
            jobs[kind] = lambda asked=asked, kind=kind, one=one: engine_pass(model, asked, OPTIONS, {kind: one})
        bare = {name: job for name, job in plain_jobs(model, request.originals).items() if name in BARE}
        for kind in PRECONDITIONERS:
            jobs[f"factors_{kind}"] = lambda kind=kind: curvature(
                model, request.originals, kind, Path(tempfile.mkdtemp(dir=folder))
            )
        times = interleaved(runs, {**jobs, **bare})
    best = min(bare, key=lambda name: statistics.median(times[name]))
    return {
        **{f"pass_with_{kind}_over_pass": ratio(times, kind, "engine") for kind in PRECONDITIONERS},
        **{f"curvature_{kind}_over_plain": ratio(times, f"factors_{kind}", "padded_1") for kind in PRECONDITIONERS},
        **{f"curvature_{kind}_over_padded": ratio(times, f"factors_{kind}", best) for kind in PRECONDITIONERS},
        "fastest_batches_of_originals": best,
    }


def curvature(model: torch.nn.Module, originals: list[EncodedSample], kind: str, folder: Path) -> StoredCurvature:
    """Curvature of a kind over the originals, with everything that an asset does but the table."""
    report = compute_curvature(
        model, originals, kind, "sampled", folder, OPTIONS, lambda *done: None, lambda said: None
    )
    return StoredCurvature(kind, report.files, Tuning(), typical=1.0)


#: H100-hours that the predecessor reports for one model, both settings: its projections, and all else.
SCRIPTS_PROJECTING_HOURS, SCRIPTS_OTHER_HOURS = 2 * 926.0, 17.0


def over_scripts(samples: int, runs: int) -> dict[str, float]:
    """(b): products, similarity and two projections of both settings, beside what the scripts compute again for them.

    Their projections are not run here. By their own account these took `SCRIPTS_PROJECTING_HOURS` where all else took
    `SCRIPTS_OTHER_HOURS`, so the whole takes them that many times as long as what is measured.
    """
    model = demo_model()
    request = make_request(lima_lengths(samples, 0), projections=PROPORTIONS)
    times = interleaved(
        runs,
        {
            "engine": lambda: engine_pass(model, request),
            "others": lambda: scripts(model, request, ("products", "similarity")),
            "scripts": lambda: scripts(model, request, ("products", "similarity", *PROPORTIONS)),
        },
    )
    reported = 1 + SCRIPTS_PROJECTING_HOURS / SCRIPTS_OTHER_HOURS
    return {
        "seconds_experiment": statistics.median(times["engine"]),
        "seconds_scripts_recomputing": statistics.median(times["scripts"]),
        "speedup_over_scripts_recomputing": ratio(times, "scripts", "engine"),
        "speedup_over_scripts": ratio(times, "others", "engine") * reported,
    }


def over_full_parameters(runs: int) -> dict[str, float]:
    """What a pass of the demo's adapter costs beside one of all parameters of its base, over the demo's own samples; and what passes of
    DoRA and IA3 over that base cost in batches, and one sample at a time."""
    with tempfile.TemporaryDirectory() as folder:
        place = build_demo_adapter(Path(folder))
        (adapter, tokenizer), (base, _) = (
            load_model.__wrapped__(str(one), resolve(str(one)), "float32", "cpu") for one in (place, place / BASE)
        )
    request = demo_request(ChatTokenizer(tokenizer))
    kinds = {
        "dora": LoraConfig(r=16, use_dora=True, target_modules=TARGETS, task_type="CAUSAL_LM"),
        "ia3": IA3Config(target_modules=TARGETS, feedforward_modules=TARGETS[-1:], task_type="CAUSAL_LM"),
    }
    models = {"adapter": adapter, "full": base}
    models |= {name: get_peft_model(copy.deepcopy(base), config).get_base_model() for name, config in kinds.items()}
    jobs = {name: partial(engine_pass, one, request) for name, one in models.items()}
    alone = replace(OPTIONS, batch_tokens=0)
    jobs |= {f"{name}_alone": partial(engine_pass, models[name], request, alone) for name in kinds}
    times = interleaved(runs, jobs)
    names = {"adapter": "adapter", "full": "all_parameters", **{name: name for name in kinds}}
    samples = sum(map(len, (request.originals, *request.variants.values())))
    return {
        **{f"milliseconds_per_sample_of_{names[n]}": 1e3 * statistics.median(times[n]) / samples for n in names},
        "adapter_over_full": ratio(times, "adapter", "full"),
        **{f"{name}_in_batches_over_one_by_one": ratio(times, name, f"{name}_alone") for name in kinds},
    }


#: What DoRA and IA3 are put into.
TARGETS = ["q_proj", "v_proj", "down_proj"]


def demo_request(chat: ChatTokenizer) -> PassRequest:
    """The demo's originals and paraphrases, each of these with five originals."""
    sets = [
        [replace(chat.encode(sample), id=f"lima_{number}") for number, sample in enumerate(parse_samples(rows, "demo"))]
        for rows in (load_originals(), load_paraphrases())
    ]
    pairs = {SETTINGS[0]: make_pairs(len(sets[0]), 5, 3)}
    return PassRequest(sets[0], {SETTINGS[0]: sets[1]}, pairs, frozenset(SETTINGS[:1]))


#: What predictions are compared on: hidden size, layers, vocabulary, tokens of samples, and projections.
PREDICTED = {
    "demo": (96, 2, 2048, (137, 244), PROPORTIONS),
    "narrow": (48, 6, 1024, (60, 400), ()),
    "wide": (256, 4, 8192, (60, 300), ()),
}


def predicted(samples: int, runs: int) -> dict[str, float]:
    """What a calibration says that passes take, over what they took: medians over rounds of measuring and computing each once."""
    found: dict[str, list[float]] = {}
    for turn in range(runs + 1):  # the first one loads what the others use
        started = clock()
        calibration = measure("cpu", "fp32", clock)
        measured = clock() - started
        for name, (hidden, layers, vocabulary, tokens, projections) in PREDICTED.items():
            lengths = np.random.default_rng(0).integers(*tokens, samples)
            request = make_request(lengths, vocabulary, projections=projections)
            work = GradientPass(
                demo_model(hidden, layers, vocabulary), request, OPTIONS, calibrate=lambda _, c=calibration: c
            )
            work.clock = clock
            report = work.run().report
            assert work.plan is not None
            if turn:
                found.setdefault(f"predicted_over_computed_{name}", []).append(
                    report.predicted_seconds / report.computing_seconds
                )
                found.setdefault(f"by_figures_over_computed_{name}", []).append(
                    work.plan.expected_seconds / report.computing_seconds
                )
                found.setdefault(f"seconds_computed_{name}", []).append(report.computing_seconds)
        found.setdefault("seconds_calibration", []).append(measured)
    return {name: statistics.median(values) for name, values in sorted(found.items())}


def scaling() -> list[dict[str, float]]:
    """(d): seconds of a pass as one thing at a time grows; each first run warms up."""
    rows = []
    base = {"samples": 8, "candidates": 5, "hidden": 256, "tokens": 400}
    for name, values in {
        "samples": (8, 16, 32),
        "candidates": (2, 4, 8),
        "hidden": (128, 256, 512),
        "tokens": (200, 400, 800, 1600),
    }.items():
        for value in values:
            setting = {**base, name: value}
            model = demo_model(hidden=setting["hidden"])
            request = make_request(np.full(setting["samples"], setting["tokens"]), candidates=setting["candidates"])
            seconds = min(interleaved(2, {"pass": lambda m=model, r=request: engine_pass(m, r)})["pass"])
            parameters = sum(parameter.numel() for parameter in model.parameters())
            rows.append({"grows": name, **setting, "parameters": parameters, "seconds": seconds})
    return rows


def exhaustive(samples: int, variants: int) -> dict[str, float]:
    """Seconds per pair of comparing everything with everything, beside those of the top 5."""
    model, top = demo_model(), make_request(lima_lengths(samples, 0))
    first = {setting: own[:variants] for setting, own in top.variants.items()}
    pairs = {s: [(v.id, o.id) for v in own for o in top.originals] for s, own in first.items()}
    whole = PassRequest(top.originals, first, pairs, top.products)
    seconds = {}
    for name, request in (("top", top), ("all", whole)):
        started = clock()
        work = engine_pass(model, request)
        seconds[name] = (clock() - started) / work.report.pairs
    return {
        "milliseconds_per_pair_top5": 1e3 * seconds["top"],
        "milliseconds_per_pair_exhaustive": 1e3 * seconds["all"],
        "exhaustive_gain_per_pair": seconds["top"] / seconds["all"],
    }


def main() -> None:
    """Runs all benchmarks, prints a table and writes build/bench/engine.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=24, help="originals; each has two variants")
    parser.add_argument("--runs", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--script-samples", type=int, default=8, help="originals of the predecessor's experiment")
    parser.add_argument(
        "--only",
        choices=["plain", "short", "preconditioned", "adapter", "scripts", "scaling", "exhaustive", "predicted"],
        default=None,
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench/engine.json"))
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall clock (one thread)")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        # Threads that wait for each other spin, which would count as work.
        globals()["clock"], arguments.threads = time.process_time, 1
    torch.set_num_threads(arguments.threads)
    parts: dict[str, Callable[[], dict]] = {
        "plain": lambda: over_plain(arguments.samples, arguments.runs),
        "short": lambda: over_padded_short(arguments.samples, arguments.runs),
        "preconditioned": lambda: over_unpreconditioned(arguments.samples, arguments.runs),
        "adapter": lambda: over_full_parameters(arguments.runs),
        "scripts": lambda: over_scripts(arguments.script_samples, max(1, arguments.runs // 2)),
        "exhaustive": lambda: exhaustive(arguments.samples, min(12, arguments.samples)),
        "predicted": lambda: predicted(arguments.samples, arguments.runs),
        "scaling": lambda: {"scaling": scaling()},
    }
    figures: dict = {
        "threads": arguments.threads,
        "torch": torch.__version__,
        "clock": "cpu" if arguments.cpu_time else "wall",
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            found = part()
            figures |= found
            for key, value in found.items():
                if isinstance(value, list):
                    for row in value:
                        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
                else:
                    print(f"{key:34} {value:.4g}" if isinstance(value, float) else f"{key:34} {value}", flush=True)
    figures["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'peak_rss_gib':34} {figures['peak_rss_gib']:.2f}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
