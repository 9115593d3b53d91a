"""Measures a device in a few seconds: small transformers forward and back as a pass does it, and products as it takes them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
import torch

from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.calibration import FLOP_PER_PARAMETER, Calibration, Kind, WidthRates, name_of
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.factors import Factors, batched_products
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.layout import Layout, Room
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch, loss_gradient
from gradsim_assets.core.sample_gradients.precision import matmul_precision, wide

#: Seconds as a clock tells them.
Clock = Callable[[], float]

#: Times that each thing is done at least, after a first one, and at most, as long as all take less than the seconds: what is short is
#: disturbed most. The median counts.
REPEATS, MOST_REPEATS, REPEATED_SECONDS = 3, 15, 0.2

#: The small models: layers, tokens of the vocabulary, and numbers of a head. What deeper ones take more is what layers take.
LAYERS, DEEPER, VOCABULARY, HEAD = 2, 6, 64, 32


@dataclass(frozen=True)
class Sizes:
    """What is measured on a kind of device, so that it takes a few seconds there."""

    widths: tuple[int, ...]
    #: Tokens of a batch of one short sample, of one long one, and samples that the long one is cut into.
    short: int
    long: int
    cut: int
    #: Rows of factors that products are taken of, and how many at a time.
    rows: int
    at_once: int
    #: Numbers of a vector that is read, and rows and width of logits.
    vector: int
    logits: tuple[int, int]


#: Of a CPU, and of a GPU.
ON_CPU = Sizes((32, 96, 256, 640), 16, 256, 4, 192, 4, 2**22, (64, 4096))
ON_CUDA = Sizes((128, 512, 1024, 2048, 4096), 64, 2048, 8, 512, 16, 2**26, (512, 32000))


def measure(
    device: torch.device | str, kind: Kind, clock: Clock = time.perf_counter, sizes: Sizes | None = None
) -> Calibration:
    """The rates of a device; leaves the generators of random numbers as they were.

    `clock` tells seconds: of the wall, unless one wants those of this process's processor. `sizes` are what is measured, if not
    what takes seconds on such a device.
    """
    device = torch.device(device)
    sizes = sizes or (ON_CUDA if device.type == "cuda" else ON_CPU)
    timer = _Timer(device, clock)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(generators), matmul_precision("tf32" if kind == "tf32" else "fp32", device):
        torch.manual_seed(0)
        batch_seconds = _batch_seconds(sizes, timer, dtype)
        widths = tuple(_of_width(width, sizes, timer, dtype, batch_seconds) for width in sizes.widths)
        found = Calibration(
            device=name_of(device),
            torch=torch.__version__,
            threads=1 if device.type == "cuda" else torch.get_num_threads(),
            kind=kind,
            measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
            widths=widths,
            batch_seconds=batch_seconds,
            logit_seconds=_logit_seconds(sizes, timer, dtype),
            bytes_per_second=_bytes_per_second(sizes, timer),
            launch_seconds=_launch_seconds(timer),
            host_bytes_per_second=_host_bytes_per_second(sizes, timer) if device.type == "cuda" else None,
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is to be planned next counts what is free
    return found


@dataclass(frozen=True)
class _Timer:
    """Times what a device does."""

    device: torch.device
    clock: Clock

    def once(self, job: Callable[[], object]) -> float:
        """Seconds until the device has done a job."""
        self._wait()
        started = self.clock()
        job()
        self._wait()
        return self.clock() - started

    def median(self, job: Callable[[], object]) -> float:
        """The median of several, after one that loads kernels and maps memory."""
        job()
        taken: list[float] = []
        while len(taken) < REPEATS or (len(taken) < MOST_REPEATS and sum(taken) < REPEATED_SECONDS):
            taken.append(self.once(job))
        return statistics.median(taken)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _batch_seconds(sizes: Sizes, timer: _Timer, dtype: torch.dtype) -> float:
    """Seconds of a short batch beside those of its layers, which a narrow model tells best."""
    found = []
    for layers in (LAYERS, DEEPER):
        hooks = _hooks(sizes.widths[0], timer.device, dtype, layers)
        with hooks.open():
            found.append(_seconds_of_batch(hooks, timer, 1, sizes.short))
    few, more = found
    return max(0.0, few - LAYERS * max(0.0, more - few) / (DEEPER - LAYERS))


def _of_width(width: int, sizes: Sizes, timer: _Timer, dtype: torch.dtype, batch_seconds: float) -> WidthRates:
    """The rates of a small model of this width, and of products of its factors."""
    hooks = _hooks(width, timer.device, dtype)
    components = hooks.parameters[1:]  # looking up an embedding is no product
    matrices = [parameter.numel() for parameter in components if parameter.dim() > 1]
    batches = ((1, sizes.short), (1, sizes.long), (sizes.cut, sizes.long // sizes.cut))
    with hooks.open():
        short, long, cut = (_seconds_of_batch(hooks, timer, *batch) for batch in batches)
    # short = calls + S each + S^2 keys, long = calls + T each + T^2 keys, cut = calls + T each + T^2 / cut keys, where calls are
    # those of the batch and those of its components.
    keys = max(0.0, (long - cut) / (sizes.long * (sizes.long - sizes.long // sizes.cut)))
    token = (long - short - keys * (sizes.long**2 - sizes.short**2)) / (sizes.long - sizes.short)
    token = max(token, 0.1 * long / sizes.long)  # a slow spell must not turn a rate around
    calls = max(0.0, short - sizes.short * token - sizes.short**2 * keys - batch_seconds)
    return WidthRates(
        width=width,
        call_seconds=calls / len(components),
        pass_rate=FLOP_PER_PARAMETER * sum(matrices) / token,
        attention_seconds=keys / sum(size**0.5 for size in matrices),
        product_rate=_product_rate(width, sizes, timer, dtype),
        forming_rate=_forming_rate(width, sizes, timer, dtype),
    )


def _hooks(width: int, device: torch.device, dtype: torch.dtype, layers: int = LAYERS) -> GradientHooks:
    hooks = GradientHooks(_model(width, device, dtype, layers), device)
    hooks.unproven = set()  # a model of a known kind, whose gradients nobody reads
    return hooks


def _model(width: int, device: torch.device, dtype: torch.dtype, layers: int) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(2, width // (HEAD if device.type == "cpu" else 4 * HEAD)),
        max_position_embeddings=4096,
    )
    with device:
        return LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()


def _seconds_of_batch(hooks: GradientHooks, timer: _Timer, samples: int, tokens: int) -> float:
    """Seconds of one batch through a model and back, its gradients collected as factors."""
    ids = np.arange(tokens) % VOCABULARY
    batch = [EncodedSample(f"{number}", ids, ids) for number in range(samples)]
    (padded,) = PaddedBatch.of([batch], timer.device)
    profile = profile_of(timer.device, hooks.parameters[0].dtype)
    layout = Layout.of(hooks, profile=profile)
    held = HeldGradients(layout, Room.of([padded.shape], profile.row_multiple))

    def job() -> None:
        held.clear()
        held.begin(padded.shape)
        hooks.backward(padded, held)

    return timer.median(job)


def _factors(width: int, sizes: Sizes, timer: _Timer, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(sizes.at_once, sizes.rows, width, device=timer.device, dtype=dtype)


def _product_rate(width: int, sizes: Sizes, timer: _Timer, dtype: torch.dtype) -> float:
    """FLOP per second of products of two samples of a matrix's factors, summed up."""
    one, other = (_factors(width, sizes, timer, dtype) for _ in range(2))

    def job() -> None:
        product = batched_products(one, other, wide(dtype))
        product.mul_(batched_products(other, one, wide(dtype))).sum(2).sum(1, dtype=torch.float64)

    return 2 * 2 * sizes.at_once * sizes.rows**2 * width / timer.median(job)


def _forming_rate(width: int, sizes: Sizes, timer: _Timer, dtype: torch.dtype) -> float:
    """FLOP per second of forming gradients of their factors."""
    factors = Factors(*(_factors(width, sizes, timer, dtype) for _ in range(2)))
    out = torch.zeros(sizes.at_once, width, width, device=timer.device, dtype=wide(dtype))
    return 2 * sizes.at_once * sizes.rows * width**2 / timer.median(partial(factors.add_to, out, True))


def _logit_seconds(sizes: Sizes, timer: _Timer, dtype: torch.dtype) -> float:
    rows, vocabulary = sizes.logits
    logits = torch.randn(rows, vocabulary, device=timer.device, dtype=dtype)
    targets = torch.zeros(rows, dtype=torch.int64, device=timer.device)
    shares = torch.ones(rows, dtype=torch.float64, device=timer.device)
    return timer.median(lambda: loss_gradient(logits, targets, shares, 1)) / logits.numel()


def _bytes_per_second(sizes: Sizes, timer: _Timer) -> float:
    """Of lengths of gradients, which read every number once."""
    vector = torch.ones(sizes.vector, device=timer.device)
    return vector.numel() * vector.element_size() / timer.median(lambda: inner_products.squares(vector))


def _launch_seconds(timer: _Timer, calls: int = 500) -> float:
    few = torch.zeros(16, device=timer.device)

    def job() -> None:
        for _ in range(calls):
            few.add_(1)

    return timer.median(job) / calls


def _host_bytes_per_second(sizes: Sizes, timer: _Timer) -> float:
    there = torch.zeros(sizes.vector // 4).pin_memory()
    here = torch.empty_like(there, device=timer.device)
    return there.numel() * 4 / timer.median(lambda: here.copy_(there, non_blocking=True))
