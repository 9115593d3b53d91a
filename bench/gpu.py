"""`python -m bench.gpu`: is the engine right on a CUDA machine, and how fast; parts print as they finish.

    calibrate  what `gradsim doctor --measure` finds, by which the parts behind it say what they take: first, in every run
    exact   every way of holding gradients against float64 autograd and against the CPU, on small models of four kinds
    timing  16 ids x 3 samples of a 1.18 B-parameter model beside plain passes, in strict fp32 and TF32
    tenth   99 ids, at one precision
    whole   988 ids, at one precision
    host    99 ids in strict fp32 without and with originals kept in the host's memory: time, and the same products
    large   50 ids of a 6.7 B-parameter Llama in bf16, at LIMA's lengths
    spread  the small models of `exact` over all GPUs of the machine and on one of them (also needs accelerate, and two GPUs)

It needs torch, transformers and numpy alone. Set PYTORCH_ALLOC_CONF=expandable_segments:True for `large`, as the compute image does.
"""

import argparse
import copy
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.baselines import one_by_one, packed, plain_passes
from bench.workload import demo_model, distinct_samples, lima_lengths, make_request
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, PassResult
from gradsim_assets.core.gradients.engine.pair_checks import plain_products, relative_error
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.calibration import Calibration, Kind, kind_of, kinds_of
from gradsim_assets.core.sample_gradients.device_measurements import measure
from gradsim_assets.core.sample_gradients.precision import Precision, matmul_precision
from gradsim_assets.core.sample_gradients.reference import PlainAutograd

GIB = 2**30
CUDA = torch.device("cuda")
STARTED = time.perf_counter()
FIGURES: dict[str, Any] = {}

#: What the part `calibrate` has found.
CALIBRATIONS: dict[Kind, Calibration] = {}


def say(what: str, **figures: Any) -> None:
    """Prints figures at once, with the time since the start, and keeps them."""
    FIGURES[what] = figures
    shown = "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )
    print(f"[{time.perf_counter() - STARTED:6.1f}] {what}: {shown}", flush=True)


def seconds(job: Callable[[], object]) -> float:
    """Time of a job until the device is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    job()
    torch.cuda.synchronize()
    return time.perf_counter() - started


# What the device does with bare products.


def rates() -> None:
    """Rates of square products, of batched grams by rows, and of copies."""
    for precision in ("fp32", "tf32"):
        with matmul_precision(precision, CUDA):
            one = torch.randn(8192, 8192, device=CUDA)
            say(f"{precision} square 8192", tflops=2 * 8192**3 / _median(partial(torch.mm, one, one)) / 1e12)
            for rows in (441, 448, 456, 464, 480, 512, 649, 656, 672, 704):
                factors = torch.randn(32, rows, 2048, device=CUDA)
                wide = torch.randn(8, rows, 8192, device=CUDA)
                say(
                    f"{precision} grams of {rows} rows",
                    tflops=2 * 32 * rows**2 * 2048 / _median(partial(torch.bmm, factors, factors.mT)) / 1e12,
                    wide_tflops=2 * 8 * rows**2 * 8192 / _median(partial(torch.bmm, wide, wide.mT)) / 1e12,
                )
    gram = torch.randn(32, 704, 704, device=CUDA)
    say("sums of grams", milliseconds=1e3 * _median(lambda: (gram * gram).sum(2).sum(1, dtype=torch.float64)))
    store, batch = torch.zeros(16, 20_000, 2048, device=CUDA), torch.randn(4, 700, 2048, device=CUDA)
    part = store[3, 64 : 64 + 4 * 704].unflatten(0, (4, 704))[:, :700]
    say("copies into a store", gb_per_second=8 * batch.numel() / _median(lambda: part.copy_(batch)) / 1e9)
    some = torch.zeros(16, device=CUDA)
    say("launch", microseconds=1e6 * seconds(lambda: [some.add_(1) for _ in range(5000)]) / 5000)


def calibrate() -> None:
    """Measures the device for predictions of time, in every arithmetic."""
    for kind in kinds_of(CUDA):
        took = seconds(lambda kind=kind: CALIBRATIONS.__setitem__(kind, measure(CUDA, kind)))
        found = CALIBRATIONS[kind]
        for one in found.widths:
            say(
                f"calibration {kind} at width {one.width}",
                call_microseconds=1e6 * one.call_seconds,
                pass_tflops=one.pass_rate / 1e12,
                attention_picoseconds=1e12 * one.attention_seconds,
                product_tflops=one.product_rate / 1e12,
                forming_tflops=one.forming_rate / 1e12,
            )
        say(
            f"calibration {kind}",
            seconds=took,
            batch_microseconds=1e6 * found.batch_seconds,
            logit_picoseconds=1e12 * found.logit_seconds,
            gb_per_second=found.bytes_per_second / 1e9,
            launch_microseconds=1e6 * found.launch_seconds,
            host_gb_per_second=(found.host_bytes_per_second or 0) / 1e9,
        )


def _median(job: Callable[[], object], times: int = 5) -> float:
    job()
    return sorted(seconds(job) for _ in range(times))[times // 2]


# Exactness.


def kinds() -> Iterator[tuple[str, torch.nn.Module]]:
    """Small models: tied, with grouped queries and biases, GPT-2's transposed matrices, experts."""
    import transformers

    sizes = {"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    grouped = {"num_key_value_heads": 2, "intermediate_size": 256}
    configs = {
        "tied": transformers.OlmoConfig(**sizes, **ids, intermediate_size=256, tie_word_embeddings=True),
        "grouped": transformers.LlamaConfig(**sizes, **ids, **grouped, attention_bias=True),
        "gpt2": transformers.GPT2Config(vocab_size=512, n_embd=128, n_layer=2, n_head=4, n_positions=256, **ids),
        # The grouped product of experts has no float64 kernel, which the reference needs.
        "experts": transformers.OlmoeConfig(
            **sizes, **ids, intermediate_size=128, num_experts=8, num_experts_per_tok=2, experts_implementation="eager"
        ),
    }
    for name, config in configs.items():
        torch.manual_seed(0)
        yield name, transformers.AutoModelForCausalLM.from_config(config).eval()


def exact() -> None:
    """Largest errors, relative to the gradients' lengths, by model, precision and way of holding."""
    lengths = np.random.default_rng(0).integers(20, 200, 10)
    request = make_request(lengths, 512, candidates=4, projections=(0.05,))
    for name, model in kinds():
        on_cpu = GradientPass(model, request, PassOptions(check_pairs=0)).run()
        model.to(CUDA)
        reference = _reference(model, request)
        for precision, form, batch in (
            ("fp32", "factored", None),
            ("fp32", "factored", 0),
            ("fp32", "formed", None),
            ("tf32", "factored", None),
            ("tf32", "formed", None),
        ):
            options = PassOptions(device=str(CUDA), precision=precision, form=form, batch_tokens=batch, check_pairs=0)
            _say_errors(
                f"{name} {precision} {form} {'one by one' if batch == 0 else 'batched'}",
                model,
                request,
                options,
                reference,
                on_cpu,
            )
        # In direct products of pairs, as large models have them: nothing is worth gathering.
        work = GradientPass(model, request, PassOptions(device=str(CUDA), form="factored", check_pairs=0))
        direct = PassOptions(
            device=str(CUDA), form="factored", check_pairs=0, profile=replace(work.profile, launch_seconds=0.0)
        )
        _say_errors(f"{name} fp32 factored pair by pair", model, request, direct, reference, on_cpu)
        model.to(torch.bfloat16)
        reference = _reference(model, request)
        for form in ("factored", "formed"):
            _say_errors(
                f"{name} bf16 {form}",
                model,
                request,
                PassOptions(device=str(CUDA), form=form, check_pairs=0),
                reference,
                None,
            )


def _reference(model: torch.nn.Module, request: PassRequest, count: int = 12) -> np.ndarray:
    """Float64 [pairs, 3, components]: what plain autograd makes of the first pairs, with the weights as they are."""
    setting, pairs = next(iter(request.pairs.items()))
    variants, originals = ({s.id: s for s in samples} for samples in (request.variants[setting], request.originals))
    dtype = next(model.parameters()).dtype
    model.double()
    plain = PlainAutograd(model, list(model.parameters()), CUDA)
    found = plain_products(plain, [(variants[v], originals[o]) for v, o in pairs[:count]])
    model.to(dtype)
    return found


def errors(result: PassResult, request: PassRequest, reference: np.ndarray) -> dict[str, float]:
    """Largest errors of dot and self products, relative to the gradients' lengths."""
    setting, count = next(iter(request.pairs)), len(reference)
    dots, one, other = (reference[:, term] for term in range(3))
    found = result.dot_products[setting], result.variant_self[setting], result.original_self[setting]
    return {
        "dot": float(relative_error(found[0][:count], dots, one, other).max()),
        "self": float(
            max(
                relative_error(found[1][:count], one, one, one).max(),
                relative_error(found[2][:count], other, other, other).max(),
            )
        ),
    }


def _say_errors(
    what: str,
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions,
    reference: np.ndarray,
    on_cpu: PassResult | None,
) -> None:
    result = GradientPass(model, request, options).run()
    figures = errors(result, request, reference)
    if on_cpu is not None:
        setting = next(iter(request.pairs))
        figures["projected"] = float(np.abs(result.projected[setting][0.05] - on_cpu.projected[setting][0.05]).max())
    say(f"error of {what}", **figures)


# Speed.


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """The most memory that was allocated meanwhile, in GiB, and what was allocated before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    figures = {"before": torch.cuda.memory_allocated() / GIB}
    yield figures
    figures["peak"] = torch.cuda.max_memory_allocated() / GIB
    figures["reserved"] = torch.cuda.max_memory_reserved() / GIB


def plain(model: torch.nn.Module, samples: Sequence[EncodedSample], precision: Precision) -> dict[str, float]:
    """Seconds of plain passes over samples, one by one and in packed batches of 4,096 tokens.

    The second time that each is done, for the first one loads kernels and maps memory.
    """
    found = {}
    with matmul_precision(precision, CUDA):
        for name, batches in (("one_by_one", one_by_one(samples)), ("packed", packed(samples, 4096))):
            for _ in range(2):
                found[name] = seconds(lambda batches=batches: plain_passes(model, batches))
    return found


def timed(
    name: str, model: torch.nn.Module, request: PassRequest, precision: Precision, beside: float | None, **options: Any
) -> PassResult:
    """A whole pass, with what it took beside what was planned."""
    settled = {"check_pairs": 0, **options}
    kind = kind_of(CUDA, next(model.parameters()).dtype, precision)
    work = GradientPass(
        model,
        request,
        PassOptions(device=str(CUDA), precision=precision, **settled),
        calibrate=lambda _: CALIBRATIONS.get(kind),
    )
    with peak() as memory:
        result = work.run(log=lambda line: print(f"    {line}", flush=True))
    plan, report = work.plan, result.report
    assert plan is not None
    flop = plan.flop + plan.forming_flop + plan.pair_flop
    with matmul_precision(precision, CUDA):
        square = torch.randn(8192, 8192, device=CUDA)
        rate = 2 * 8192**3 / _median(partial(torch.mm, square, square))
    say(
        f"{name} {precision}",
        seconds=report.seconds,
        planned_seconds=plan.expected_seconds,
        computing_seconds=report.computing_seconds,
        predicted_seconds=report.predicted_seconds,
        predicted_over_computed=report.predicted_seconds / report.computing_seconds,
        predicted_by=report.predicted_by,
        pass_over_plain=report.seconds / beside if beside else float("nan"),
        passes=report.gradients_computed,
        passes_over_minimum=report.gradients_computed / report.samples,
        blocks=report.blocks,
        batch_tokens=plan.batch_tokens,
        tokens_per_second=plan.tokens / report.seconds,
        tflops=flop / report.seconds / 1e12,
        share_of_gemm_rate=flop / report.seconds / rate,
        peak_gib=memory["peak"] - memory["before"],
        planned_gib=plan.memory_bytes / GIB,
        reserved_gib=memory["reserved"],
        verification_seconds=report.verification_seconds,
        verified=report.verified,
        error=report.checks.error,
        cosine_cost=report.checks.cosine_cost,
        notes=report.notes,
    )
    return result


def launches(model: torch.nn.Module, precision: Precision) -> None:
    """Kernels of a small pass, how long the device is busy with them, and which take most."""
    from torch.profiler import ProfilerActivity, profile

    request = make_request(np.full(4, 500), model.config.vocab_size)
    options = PassOptions(device=str(CUDA), precision=precision, check_pairs=0)
    GradientPass(model, request, options).run()
    took = seconds(lambda: GradientPass(model, request, options).run())
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        GradientPass(model, request, options).run()
    kernels = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    say(
        f"12 samples of 500 tokens, 40 pairs, {precision}",
        kernels=sum(event.count for event in kernels),
        seconds=took,
        busy_seconds=busy,
        busy_share=busy / took,
    )
    for event in sorted(kernels, key=lambda event: -event.self_device_time_total)[:14]:
        print(f"    {event.self_device_time_total / 1e3:9.1f} ms  {event.count:6}  {event.key[:110]}", flush=True)


class Bench:
    """The parts that need the large model."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._model: torch.nn.Module | None = None

    @property
    def model(self) -> torch.nn.Module:
        """The large model, made on the device on first use."""
        if self._model is None:
            with CUDA:
                self._model = demo_model(self._arguments.hidden, self._arguments.layers, self._arguments.vocabulary).to(
                    CUDA
                )
            say(
                "model",
                parameters=sum(p.numel() for p in self._model.parameters()),
                gib=torch.cuda.memory_allocated() / GIB,
            )
        return self._model

    def _request(self, ids: int, projections: tuple[float, ...] = ()) -> PassRequest:
        return make_request(lima_lengths(ids, 0), self._arguments.vocabulary, projections=projections)

    def timing(self) -> None:
        """16 ids beside plain passes, at both precisions."""
        request = self._request(16)
        for precision in ("tf32", "fp32"):
            beside = plain(self.model, distinct_samples(request), precision)
            say(f"plain {precision}", **beside)
            result = timed("16 ids", self.model, request, precision, min(beside.values()))
            say(f"error {precision}", **errors(result, request, _reference(self.model, request, 1)))
        launches(self.model, "tf32")

    def tenth(self) -> None:
        """99 ids."""
        timed("99 ids", self.model, self._request(99), self._arguments.precision, None)

    def projected(self) -> None:
        """16 ids with two projections."""
        timed("16 ids with projections", self.model, self._request(16, (0.01, 0.05)), self._arguments.precision, None)

    def host(self) -> None:
        """99 ids in strict fp32, where a pass is dearest: with and without gradients in the host's memory."""
        request, found = self._request(99), {}
        for gib in (0, 48):
            name, options = f"99 ids, {gib} GiB on the host", {"host_bytes": gib * GIB, "check_pairs": 1}
            found[gib] = timed(name, self.model, request, "fp32", None, **options)
            say(name, fetched=found[gib].report.gradients_fetched)
        worst = max(
            float(np.abs(found[48].dot_products[setting] - dots).max() / np.abs(dots).max())
            for setting, dots in found[0].dot_products.items()
        )
        say("kept on the host", largest_difference=worst)

    def whole(self) -> None:
        """988 ids."""
        timed("988 ids", self.model, self._request(988), self._arguments.precision, None)


def large_model() -> torch.nn.Module:
    """A Llama of 6.7 B parameters with random weights in bf16, on the device."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4608,
    )
    with CUDA:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def large(ids: int = 50) -> None:
    """50 ids of a 6.7 B-parameter model, with one pair recomputed from fp32 copies of the weights where they fit."""
    model, request = large_model(), make_request(lima_lengths(ids, 0), 32000)
    say("large model", parameters=sum(p.numel() for p in model.parameters()), gib=torch.cuda.memory_allocated() / GIB)
    samples = distinct_samples(request)
    some = samples[:: len(samples) // 15]  # plain passes over a tenth tell the rate
    tokens = sum(sample.length for sample in samples)
    share = sum(sample.length for sample in some) / tokens
    beside = {name: took / share for name, took in plain(model, some, "fp32").items()}
    say("large plain", tokens=tokens, **beside)
    timed(f"{ids} ids, large", model, request, "fp32", min(beside.values()), check_pairs=1)


def spread() -> None:
    """Largest errors of models whose layers lie on all GPUs, beside those of the same models on one."""
    from gradsim_assets.core.models.spreading import spread_over

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if len(devices) < 2:
        say("spread", gpus=len(devices))
        return
    request = make_request(np.random.default_rng(0).integers(20, 200, 10), 512, candidates=4, projections=(0.05,))
    for name, model in kinds():
        over, reference = copy.deepcopy(model), _reference(model.to(CUDA), request)
        spread_over(name, over, devices)
        for form in ("factored", "formed"):
            options = PassOptions(device=devices[0], form=form)
            for where, one in ((f"{len(devices)} GPUs", over), ("one GPU", model)):
                result = GradientPass(one, request, options).run()
                say(f"{name} {form} on {where}", seconds=result.report.seconds, **errors(result, request, reference))


def run(parts: Sequence[tuple[str, Callable[[], None]]], output: Path) -> None:
    """Runs the parts one after the other; one that fails does not take the others along."""
    for name, part in parts:
        try:
            part()
        except Exception:
            traceback.print_exc()
            say(f"{name} FAILED")
        torch.cuda.empty_cache()
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"device": torch.cuda.get_device_name(), "figures": FIGURES}, indent=2) + "\n")


def main() -> None:
    """Runs the parts that were asked for and writes build/bench/gpu.json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["calibrate", "rates", "exact", "timing", "projected", "tenth"])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument(
        "--precision", choices=["fp32", "tf32"], default="tf32", help="of the parts tenth, projected and whole"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench/gpu.json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device; this benchmark needs one (python -m bench.engine runs on CPU).")
    say(
        "device",
        device=torch.cuda.get_device_name(),
        torch=torch.__version__,
        free_gib=torch.cuda.mem_get_info()[0] / GIB,
    )
    bench = Bench(arguments)
    every = {
        "calibrate": calibrate,
        "rates": rates,
        "exact": exact,
        "timing": bench.timing,
        "projected": bench.projected,
        "tenth": bench.tenth,
        "whole": bench.whole,
        "host": bench.host,
        "large": large,
        "spread": spread,
    }
    unknown = set(arguments.parts) - set(every)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(every)}")
    run([(name, every[name]) for name in arguments.parts], arguments.output)


if __name__ == "__main__":
    main()
