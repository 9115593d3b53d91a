"""How many answers at a time fit the memory."""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from gradsim_assets.core.memory import free_bytes, ran_out

#: Largest batch chosen by itself: beyond it decoding gains little, and padding and stragglers cost more.
_MAX_BATCH = {"cpu": 32, "cuda": 64}


def fitting_batch_size(model: Any, device: str | torch.device, max_positions: int) -> int:
    """Rows whose caches, grown to the whole context, fill at most half of the free memory."""
    device = torch.device(device)
    size = next(model.parameters()).element_size()
    # Appending to a layer's cache copies it, and logits are held in the model's dtype, in fp32 and as magnitudes.
    row = _cache_bytes(model, device, max_positions) * 5 // 4 + len(model.get_input_embeddings().weight) * (size + 8)
    return int(max(1, min(_MAX_BATCH.get(device.type, 16), free_bytes(device, "half") // row)))


@torch.no_grad()
def _cache_bytes(model: Any, device: torch.device, length: int) -> int:
    """Bytes that a model remembers of one row of that length, from what it remembers of two short ones."""
    lengths = (4, 12)
    try:
        short, longer = (
            model(input_ids=torch.ones((1, n), dtype=torch.long, device=device), use_cache=True) for n in lengths
        )
    except Exception as error:
        if ran_out(error):  # one row alone is then told by its sample
            return sys.maxsize
        return 0  # it keeps no cache
    first, second = (
        sum(_bytes(value) for name, value in output.items() if name not in ("loss", "logits"))
        for output in (short, longer)
    )
    growth = max(0.0, (second - first) / (lengths[1] - lengths[0]))
    return int(first + growth * (length - lengths[0]))


def _bytes(held: Any) -> int:
    """Bytes of all tensors in a cache, whatever its class."""
    if isinstance(held, torch.Tensor):
        return held.nbytes
    if isinstance(held, Mapping):
        return sum(map(_bytes, held.values()))
    if isinstance(held, list | tuple):
        return sum(map(_bytes, held))
    return sum(map(_bytes, vars(held).values())) if hasattr(held, "layers") or hasattr(held, "keys") else 0
