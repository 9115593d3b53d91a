"""A gradient that was computed, put away in the host's memory until another block of a pass meets its sample again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradsim_assets.core.sample_gradients.padded_batch import BatchShape

#: What is held of one sample.
Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class KeptGradient:
    """One sample's gradient as it is held, in the host's memory: bit by bit what was computed."""

    #: Of a batch of the sample alone.
    shape: BatchShape
    #: By device: what is held there of it, formed, as factors and of its projections.
    tensors: list[Tensors]
    #: Float64 [components]; NaN where products are not wanted.
    self_products: np.ndarray


def on_host(tensors: Tensors) -> list[torch.Tensor]:
    """Copies in the host's memory; those of a GPU are pinned, and on their way when this returns.

    The device's stream keeps the order, so that what is copied may be overwritten by later work on the device.
    """
    copies = []
    for tensor in tensors:
        pinned = tensor.device.type == "cuda"
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
        copies.append(copy.copy_(tensor, non_blocking=pinned))
    return copies


def put_back(places: Tensors, kept: Tensors) -> None:
    """Copies what was kept to where it is held; for a GPU it is on its way when this returns."""
    for place, tensor in zip(places, kept, strict=True):
        place.copy_(tensor, non_blocking=True)
