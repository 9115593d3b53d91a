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
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.pair_checks import plain_products, relative_error
from gradsim_assets.core.gradients.engine.values.precision import Precision, matmul_precision
from gradsim_assets.core.gradients.engine.values.reference import PlainAutograd


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


def one_pass(model: torch.nn.Module, request: PassRequest, precision: Precision, check: int) -> dict[str, float | str]:
    """A whole pass at one precision, with its error against float64 autograd over `check` pairs."""
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    with matmul_precision(precision, device):
        rate = gemm_rate()
    work = GradientPass(model, request, PassOptions(device="cuda", precision=precision, check_pairs=0))
    result = work.run(lambda done, total, what: print(f"\r{done}/{total}", end="", flush=True))
    report, plan = result.report, work.plan
    assert plan is not None
    flop = plan.flop + plan.forming_flop + plan.pair_flop
    print(f"\n{report.plan}")
    return {
        "precision": precision,
        "seconds": report.seconds,
        "passes": report.gradients_computed,
        "passes_over_minimum": report.gradients_computed / report.samples,
        "tokens_per_second": plan.tokens / report.seconds,
        "flop_per_second": flop / report.seconds,
        "share_of_gemm_rate": flop / report.seconds / rate,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "error_to_float64": _error(model, request, result, check) if check else float("nan"),
    }


def _error(model: torch.nn.Module, request: PassRequest, result: PassResult, check: int) -> float:
    setting, pairs = next(iter(request.pairs.items()))
    variants = {sample.id: sample for sample in request.variants[setting]}
    originals = {sample.id: sample for sample in request.originals}
    model.double()
    plain = PlainAutograd(model, list(model.parameters()), "cuda")
    exact = plain_products(plain, [(variants[v], originals[o]) for v, o in pairs[:check]])
    model.float()
    found = result.dot_products[setting][:check]
    return float(relative_error(found, exact[:, 0], exact[:, 1], exact[:, 2]).max())


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
    rows = [one_pass(model, request, precision, arguments.check) for precision in ("fp32", "tf32")]
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
