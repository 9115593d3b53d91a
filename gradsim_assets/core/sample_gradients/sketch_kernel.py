"""The sum of a rolled sketch as one kernel, for CUDA devices: it needs Triton and a C compiler, which not every image has."""

from collections.abc import Callable
from functools import cache

import torch
import triton
import triton.language as tl

#: Places of the projection that one program sums up.
_PLACES = 256

Sum = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@triton.jit
def _rolled_sum(gradients, row_signs, shifts, signs, out, size, stride, rows, width, places: tl.constexpr):  # type: ignore[no-untyped-def]
    sample = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * places + tl.arange(0, places)
    total = tl.zeros((places,), dtype=out.dtype.element_ty)
    start = tl.zeros((places,), dtype=tl.int64)  # of the row: a gradient may have more numbers than 32 bits count
    for row in range(rows):
        column = place - tl.load(shifts + row)
        column = tl.where(column < 0, column + width, column)
        entry = start + column
        inside = (place < width) & (entry < size)
        value = tl.load(gradients + sample * stride + entry, mask=inside, other=0)
        total += tl.load(row_signs + row) * tl.load(signs + column, mask=inside, other=0) * value
        start += width
    tl.store(out + sample * width + place, total, mask=place < width)


def rolled_sum(
    gradients: torch.Tensor, row_signs: torch.Tensor, shifts: torch.Tensor, signs: torch.Tensor
) -> torch.Tensor:
    """Projects by `RolledSketch`, row after row of the gradient, so that every number is read once and in one order.

    Args:
        gradients: [samples, n], fp32 or fp64.
        row_signs: u [R], of the gradients' dtype, as are the `signs`.
        shifts: k [R], int64.
        signs: v [d].

    Returns:
        [samples, d], of the gradients' dtype.
    """
    gradients = gradients if gradients.stride(1) == 1 else gradients.contiguous()
    (samples, size), width = gradients.shape, len(signs)
    out = gradients.new_empty(samples, width)
    if samples:
        grid = (samples, triton.cdiv(width, _PLACES))
        _rolled_sum[grid](
            gradients, row_signs, shifts, signs, out, size, gradients.stride(0), len(shifts), width, places=_PLACES
        )
    return out


@cache
def works_on(device: torch.device) -> bool:
    """Whether the kernel can be built for a device and gives what it should there."""
    gradients = torch.arange(1.0, 6.0, device=device)[None]
    try:
        with torch.cuda.device(device):
            found = rolled_sum(
                gradients,
                torch.tensor([1.0, -1.0], device=device),
                torch.tensor([1, 0], device=device),
                torch.tensor([1.0, 1.0, -1.0], device=device),
            )
    except Exception:  # without a compiler, or on a device that Triton does not know
        return False
    # (-3, 1, 2) of the first row, rolled by one, less (4, 5) of the second.
    return found[0].tolist() == [-7.0, -4.0, 2.0]
