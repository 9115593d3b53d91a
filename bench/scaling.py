"""What experiments cost at scale, from the engine's own planner: the figures of docs/scaling.md.

python -m bench.scaling            the tables, in a minute and without a model or a GPU
python -m bench.scaling --measure  the planner's cost against measured passes on this machine
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.workload import LIMA_QUANTILES, SETTINGS, demo_model, lima_lengths, make_pairs, make_samples
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import (
    ModelShape,
    PassGraph,
    PassOptions,
    PassRequest,
    Plan,
    plan_pass,
    plan_turns,
    run_pass,
    shape_of_config,
)
from gradsim_assets.core.memory import allowed_of

IDS, CANDIDATES, PROJECTIONS = 988, 5, (0.01, 0.05)
GIB = 2**30

#: Hidden size, layers, vocabulary and intermediate size, from 0.15 B to 13 B parameters.
SIZES = (
    (768, 12, 50304, 3072),
    (1024, 24, 50304, 4096),
    (2048, 16, 50304, 8192),
    (2816, 28, 50304, 11264),
    (4096, 32, 32000, 11008),
    (5120, 40, 32000, 13824),
)
KEPT = {"checkpoint_beyond": None}

#: Of an H100.
GPU_BYTES = int(79.1 * GIB)


def shape_of(hidden: int, layers: int, vocabulary: int, intermediate: int, dtype: str = "float32") -> ModelShape:
    """A tied OLMo of this size (AMD-OLMo-1B is 2048, 16, 50304, 8192)."""
    import torch
    from transformers import OlmoConfig

    return shape_of_config(
        OlmoConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=16,
            max_position_embeddings=4608,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=1,
        ),
        getattr(torch, dtype),
    )


def graph(
    ids: Sequence[int], lengths: dict[str, np.ndarray], pairs: list[tuple[int, int]], projections: bool
) -> PassGraph:
    """One shard: its ids' variants of both settings with their candidates."""
    inside = set(ids)
    chosen = [(f"v{i}", f"o{j}") for i, j in pairs if i in inside]
    originals = {o: (n := int(lengths["original"][int(o[1:])]), n - n // 5) for o in {o for _, o in chosen}}
    variants = {s: {f"v{i}": (n := int(lengths[s][i]), n - n // 5) for i in ids} for s in SETTINGS}
    wanted = dict.fromkeys(SETTINGS, PROJECTIONS) if projections else {}
    return PassGraph(originals, variants, dict.fromkeys(SETTINGS, chosen), frozenset(SETTINGS), wanted)


def lima(count: int) -> tuple[dict[str, np.ndarray], list[tuple[int, int]]]:
    """Lengths by kind of sample and candidate pairs, like those of LIMA under BM25."""
    lengths = {kind: lima_lengths(count, seed) for seed, kind in enumerate(("original", *SETTINGS))}
    pairs = [(int(v.split("_")[1]), int(o.split("_")[1])) for v, o in make_pairs(count, CANDIDATES, 0)]
    return lengths, pairs


def shards_table(shape: ModelShape, memory: int, rate: float, projections: bool) -> None:
    """The main experiment cut into more and more shards: what is computed twice, and how wide it can run."""
    lengths, pairs = lima(IDS)
    print("| shards | backward passes | x minimum | GPU-hours | on 8 GPUs | longest shard |")
    for count in (1, 4, 8, 16, 32, 90):
        plans: list[Plan] = []
        for shard in range(count):
            ids = range(shard * IDS // count, (shard + 1) * IDS // count)
            plans.append(plan_pass(shape, graph(ids, lengths, pairs, projections), memory))
        seconds = [plan.seconds(rate) for plan in plans]
        wide = makespan(seconds, 8)
        passes = sum(plan.passes for plan in plans)
        print(
            f"| {count} | {passes:,} | {passes / (3 * IDS):.2f} | {sum(seconds) / 3600:.2f} "
            f"| {wide / 3600:.2f} h | {max(seconds) / 60:.1f} min |"
        )


def least_table() -> None:
    """The least memory beside models of many sizes: one variant and one original, the longest of LIMA."""
    print("| model | weights | beside it | truncated at 2,048 | activations kept |")
    for dtype, sizes in (("float32", SIZES), ("bfloat16", SIZES[2:])):
        for size in sizes:
            shape = shape_of(*size, dtype)
            found = [least(shape, tokens, **kept) for tokens, kept in ((4147, {}), (2048, {}), (4147, KEPT))]
            billions = sum(c.size for c in shape.components) / 1e9
            columns = " | ".join(f"{bytes_ / GIB:.1f} GiB" for bytes_ in (shape.model_bytes, *found))
            print(f"| {billions:.2f} B {dtype} | {columns} |", flush=True)


def least(shape: ModelShape, tokens: int, **options: Any) -> float:
    """Bytes that a pass needs at least beside the model where the longest sample has so many tokens."""
    lengths = {"lima_0": (tokens, tokens - tokens // 5)}
    pairs = dict.fromkeys(SETTINGS, (("lima_0", "lima_0"),))
    one = PassGraph(lengths, dict.fromkeys(SETTINGS, lengths), pairs, frozenset(SETTINGS))
    try:
        plan_pass(shape, one, 1, PassOptions(device="cuda", **options))
    except InputError as refusal:
        return float(str(refusal).split("at least ")[1].split(" GiB")[0]) * GIB
    raise AssertionError("one byte suffices for no pass")


def spread_table() -> None:
    """Llama3-70B in bf16 over GPUs of 80 GB: what the fullest of them takes for samples of LIMA's lengths, to the longest."""
    import torch

    from gradsim_assets_tests.support.engine_cases import llama3_70b

    shape = shape_of_config(llama3_70b(), torch.bfloat16)
    ids, options = range(len(LIMA_QUANTILES)), PassOptions(device="cuda")
    lengths = dict.fromkeys(("original", *SETTINGS), np.array(LIMA_QUANTILES))
    pairs = [(one, (one + step) % len(ids)) for one in ids for step in range(CANDIDATES)]
    work = graph(ids, lengths, pairs, projections=False)
    print("| GPUs | weights of each | beside them | allowed | turns | passes over the minimum | time |")
    for count in (16, 8, 6, 4, 3, 2):
        spread = shape.spread(count)
        allowed = allowed_of(GPU_BYTES - spread.most_model_bytes, "cuda", "most")
        try:
            turns = plan_turns(spread, work, allowed, options)
        except InputError as refusal:
            print(f"| {count} | {refusal} |")
            continue
        passes = sum(turn.plan.passes for turn in turns) / work.minimum
        seconds = sum(turn.plan.expected_seconds for turn in turns)
        taken = max(turn.plan.memory_bytes for turn in turns)
        columns = " | ".join(f"{bytes_ / GIB:.1f} GiB" for bytes_ in (spread.most_model_bytes, taken, allowed))
        print(f"| {count} | {columns} | {len(turns)} | {passes:.2f} | {seconds / 60:.0f} min |", flush=True)


def makespan(seconds: list[float], workers: int) -> float:
    """Time until all are done when each worker takes the next one."""
    ends = [0.0] * workers
    for one in seconds:
        ends[ends.index(min(ends))] += one
    return max(ends)


def exhaustive(shape: ModelShape, memory: int, rate: float, variants: int, originals: int, gpus: int) -> None:
    """Every variant against every original: variants in blocks, and all originals once per block."""
    probe = 96
    lengths = {kind: lima_lengths(probe, seed) for seed, kind in enumerate(("original", *SETTINGS))}
    setting = SETTINGS[0]
    pairs = [(f"v{i}", f"o{j}") for i in range(probe) for j in range(probe)]
    originals_of_probe, variants_of_probe = (
        {f"{letter}{i}": (int(n), int(n - n // 5)) for i, n in enumerate(lengths[kind])}
        for letter, kind in (("o", "original"), ("v", setting))
    )
    plan = plan_pass(
        shape,
        PassGraph(originals_of_probe, {setting: variants_of_probe}, {setting: pairs}, frozenset({setting})),
        memory,
    )
    held = probe / len(plan.blocks)
    blocks = -(-variants // int(held))
    # One original on its way past a block of held variants costs the same however many others there are.
    per_block = plan.seconds(rate) / len(plan.blocks) / probe
    seconds = per_block * blocks * originals
    print(
        f"{variants:,} variants x {originals:,} originals: {held:.0f} variants held at a time, {blocks} blocks, "
        f"{blocks * originals:,} passes, {seconds / 3600:,.0f} GPU-hours, {seconds / 3600 / gpus:,.1f} h on {gpus} GPUs; "
        f"products of every component {variants * originals * len(shape.components) * 24 / 1e12:,.1f} TB, "
        f"of the full gradient alone {variants * originals * 24 / 1e9:,.1f} GB"
    )


def measure() -> None:
    """FLOP per second should not depend on the size of the model or of the workload."""
    import torch

    from gradsim_assets.core.gradients.engine.planning.model_shape import measure as shape_of_model
    from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks

    torch.set_num_threads(1)
    for hidden, layers, vocabulary, count in (
        (128, 2, 2048, 12),
        (256, 4, 8192, 12),
        (256, 4, 8192, 24),
        (384, 6, 8192, 12),
    ):
        model = demo_model(hidden, layers, vocabulary)
        lengths = {kind: np.minimum(lima_lengths(count, seed), 1200) for seed, kind in enumerate(("o", *SETTINGS))}
        pairs = make_pairs(count, CANDIDATES, 0)
        request = PassRequest(
            make_samples(lengths["o"], vocabulary, 0),
            {s: make_samples(lengths[s], vocabulary, 1 + n) for n, s in enumerate(SETTINGS)},
            dict.fromkeys(SETTINGS, pairs),
            frozenset(SETTINGS),
        )
        plan = plan_pass(shape_of_model(GradientHooks(model)), PassGraph.of(request), 2 * GIB)
        started = time.process_time()  # of one thread: other work on the machine does not count
        result = run_pass(model, request, PassOptions(memory_bytes=2 * GIB, check_pairs=0))
        seconds = time.process_time() - started
        size = sum(p.numel() for p in model.parameters())
        print(
            f"| {size / 1e6:.1f} M | {3 * count} | {result.report.gradients_computed} | {plan.tokens:,} | {plan.seconds(1e12):.3f} | "
            f"{seconds:.1f} | {plan.seconds(1.0) / seconds / 1e9:.0f} |",
            flush=True,
        )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rate", type=float, default=30e12, help="FLOP/s that the GPU sustains in float32 products")
    parser.add_argument("--memory", type=float, default=60, help="GiB beside the model")
    arguments = parser.parse_args()
    if arguments.measure:
        print("| model | samples | gradients | tokens | planned TFLOP | seconds | GFLOP/s |")
        measure()
        return
    shape, memory = shape_of(2048, 16, 50304, 8192), int(arguments.memory * GIB)
    least_table()
    spread_table()
    print(f"\ncomponents {len(shape.components)}, parameters {sum(c.size for c in shape.components):,}")
    for projections in (False, True):
        print(f"\nprojections: {projections}")
        shards_table(shape, memory, arguments.rate, projections)
    print()
    for variants, originals in ((988, 988), (1000, 10_000), (1000, 100_000), (1000, 1_000_000)):
        exhaustive(shape, memory, arguments.rate, variants, originals, 64)


if __name__ == "__main__":
    main()
