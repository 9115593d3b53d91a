"""How exactly matrices are multiplied, and what errors that explains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

#: `fp32` multiplies in full; `tf32` rounds factors to 10 bits on NVIDIA GPUs from Ampere on and sums in fp32.
Precision = Literal["fp32", "tf32"]


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Sets the precision of fp32 matrix products on CUDA, whatever the process had set; a CPU always does them in full."""
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


def default_tolerance(dtype: torch.dtype, precision: Precision = "fp32") -> float:
    """Largest error of a product, relative to the lengths of both gradients, that rounding explains."""
    if dtype == torch.float32 and precision == "tf32":
        return 2e-2
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 5e-2)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that products are accumulated in: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
