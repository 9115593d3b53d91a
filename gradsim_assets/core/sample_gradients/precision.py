"""How exactly numbers are computed, what errors that explains, and how weights are widened to see more exactly."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import torch

#: Of matrix products and convolutions. `fp32` computes in full; `tf32` rounds factors to 10 bits on NVIDIA GPUs from Ampere
#: on and sums in fp32.
Precision = Literal["fp32", "tf32"]


@dataclass(frozen=True)
class Arithmetic:
    """What gradients are computed in."""

    dtype: torch.dtype
    precision: Precision = "fp32"

    @property
    def strict(self) -> "Arithmetic":
        """The least in which an error beyond the tolerance is no rounding, but for components that are noise."""
        return Arithmetic(self.dtype if self.dtype.itemsize >= torch.float32.itemsize else torch.float32)

    @property
    def wider(self) -> "Arithmetic | None":
        """In which one sees how much of a number is rounding; nothing shows that of float64."""
        if self != self.strict:
            return self.strict
        return Arithmetic(torch.float64) if self.dtype != torch.float64 else None

    @property
    def tolerance(self) -> float:
        """The largest error, relative to a component's own length, that is none: of gradients and of products alike."""
        return 1e-9 if self.dtype == torch.float64 else 1e-5

    def __str__(self) -> str:
        return self.precision if self.precision != "fp32" else str(self.dtype).removeprefix("torch.")


@contextmanager
def matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Sets the precision of fp32 matrix products and convolutions, whatever the process had set, autocasting included.

    A CPU always computes in full.
    """
    wanted = dict.fromkeys(attrgetter("mkldnn.matmul", "mkldnn.conv")(torch.backends), "ieee")
    if device.type == "cuda":
        settings_of_cuda = attrgetter("cuda.matmul", "cudnn.conv", "cudnn.rnn")(torch.backends)
        wanted |= dict.fromkeys(settings_of_cuda, "tf32" if precision == "tf32" else "ieee")
    before = {settings: settings.fp32_precision for settings in wanted}
    try:
        for settings, value in wanted.items():
            settings.fp32_precision = value
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for settings, value in before.items():
            settings.fp32_precision = value


@contextmanager
def widened(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Computes with the same weights and buffers in a wider dtype; every bit of them is as it was afterwards.

    Takes the memory of the weights in both dtypes, less what one weight takes.
    """
    with ExitStack() as undo:
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dtype != dtype:
                undo.callback(setattr, parameter, "grad", parameter.grad)
                parameter.grad = None
                undo.callback(_cast, parameter, parameter.dtype)
                _cast(parameter, dtype)
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point() and buffer.dtype != dtype:
                    undo.callback(module._buffers.__setitem__, name, buffer)
                    module._buffers[name] = buffer.to(dtype)
        yield


def _cast(parameter: torch.nn.Parameter, dtype: torch.dtype) -> None:
    parameter.data = parameter.data.to(dtype)


def widening_bytes(model: torch.nn.Module, dtype: torch.dtype) -> dict[torch.device, int]:
    """Bytes that `widened` takes beside the model, by device."""
    found: dict[torch.device, int] = {}
    for parameter in model.parameters():
        more = max(0, dtype.itemsize - parameter.element_size()) if parameter.is_floating_point() else 0
        found[parameter.device] = found.get(parameter.device, 0) + parameter.numel() * more
    return found


def narrowest(model: torch.nn.Module) -> torch.dtype:
    """The dtype of the fewest bits among a model's weights, frozen ones too: it is what rounds the gradients of all others."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return min(dtypes, key=lambda dtype: dtype.itemsize)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that products are accumulated in: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
