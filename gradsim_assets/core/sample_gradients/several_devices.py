"""A model whose layers lie on several devices: what is asked of all of them, and what comes together on one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.memory import MemoryPolicy, free_bytes, peak_bytes


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices of a model's weights, in the order in which the model has them; one for most models."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def gathered(tensors: Sequence[torch.Tensor], dim: int = 1) -> torch.Tensor:
    """Small tensors of one shape, stacked on the device of the first."""
    return torch.stack([tensor.to(tensors[0].device) for tensor in tensors], dim)


def least_free_bytes(devices: Sequence[torch.device], policy: MemoryPolicy) -> int:
    """What a computation may take on each of some devices (see `free_bytes`): the fullest of them decides."""
    return min(free_bytes(device, policy) for device in devices)


def most_peak_bytes(devices: Sequence[torch.device]) -> int:
    """The highest use of memory so far (see `peak_bytes`) of any of some devices."""
    return max(peak_bytes(device) for device in devices)


@contextmanager
def logits_left_in_place(model: nn.Module) -> Iterator[None]:
    """Has a model that is spread over several devices leave its logits where the head makes them.

    accelerate brings what a model gives back to the device of its input, which is the place where whoever calls it looks for it. A
    vocabulary is wide, and the first device has weights of its own.
    """
    hook: Any = getattr(model, "_hf_hook", None)
    brought = getattr(hook, "io_same_device", False)
    if brought:
        hook.io_same_device = False
    try:
        yield
    finally:
        if brought:
            hook.io_same_device = True
