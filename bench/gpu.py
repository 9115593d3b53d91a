"""`python -m bench.gpu`: the whole experiment on a billion-parameter model with LIMA's lengths, on any CUDA machine.

Reports time, tokens/s, FLOP/s achieved beside the device's own rate of bare matrix products, and peak memory, in
strict fp32 and with TF32, and the error of each against float64 autograd.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from bench.workload import demo_model, lima_lengths, make_request
from gradsim_assets.core.engine import GradientPass, PassOptions, PassRequest
from gradsim_assets.core.engine.check import plain_products, relative_error


def gemm_rate(size: int = 8192, seconds: float = 2.0) -> float:
    """FLOP/s of a square fp32 matrix product under the precision that is set."""
    one = torch.randn(size, size, device="cuda")
    other = torch.randn(size, size, device="cuda")
    out = torch.empty_like(one)
    torch.mm(one, other, out=out)
    torch.cuda.synchronize()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.mm(one, other, out=out)
        torch.cuda.synchronize()
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - started)


def one_pass(model: torch.nn.Module, request: PassRequest, precision: str, check: int) -> dict[str, float | str]:
    """A pass at one precision ("highest" is strict fp32, "high" is TF32)."""
    torch.set_float32_matmul_precision(precision)
    torch.cuda.reset_peak_memory_stats()
    rate = gemm_rate()
    work = GradientPass(model, request, PassOptions(device="cuda", check_pairs=0))
    started = time.perf_counter()
    first = None
    for block in work.blocks(lambda done, total, what: print(f"\r{done}/{total}", end="", flush=True)):
        first = first or block
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    assert work.plan is not None
    flop = work.plan.flop + work.plan.forming_flop + work.plan.pair_flop
    print(f"\n{work.report.plan}")
    return {
        "precision": "fp32" if precision == "highest" else "tf32",
        "seconds": seconds,
        "passes": work.report.gradients_computed,
        "passes_over_minimum": work.report.gradients_computed / work.report.samples,
        "tokens_per_second": work.plan.tokens / seconds,
        "flop_per_second": flop / seconds,
        "share_of_gemm_rate": flop / seconds / rate,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "error_to_float64": _error(model, request, first, check) if check and first is not None else float("nan"),
    }


def _error(model: torch.nn.Module, request: PassRequest, block, check: int) -> float:
    variants = {sample.id: sample for sample in request.variants[block.setting]}
    originals = {sample.id: sample for sample in request.originals}
    names = [request.pairs[block.setting][row] for row in block.rows[:check]]
    pairs = [(variants[variant], originals[original]) for variant, original in names]
    model.double()
    exact = plain_products(model, pairs, list(model.parameters()), "cuda")
    model.float()
    return float(relative_error(block.dot_products[:check], exact[:, 0], exact[:, 1], exact[:, 2]).max())


def main() -> None:
    """Runs both precisions and writes build/bench/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=988, help="originals; each has two variants")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--projections", type=float, nargs="*", default=[])
    parser.add_argument("--check", type=int, default=1, help="pairs compared with float64 autograd")
    parser.add_argument("--output", type=Path, default=Path("build/bench/gpu.json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device; this benchmark needs one (python -m bench.engine runs on CPU).")
    model = demo_model(arguments.hidden, arguments.layers, arguments.vocabulary).cuda()
    request = make_request(
        lima_lengths(arguments.samples, 0), arguments.vocabulary, projections=tuple(arguments.projections)
    )
    rows = [one_pass(model, request, precision, arguments.check) for precision in ("highest", "high")]
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"device": torch.cuda.get_device_name(), "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
