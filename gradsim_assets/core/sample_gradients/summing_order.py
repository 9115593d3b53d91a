"""Matrix products in another order of summing: how much of a number is rounding, where no wider arithmetic shows it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


class OtherSummingOrder(TorchDispatchMode):
    """Matrix products, those of the backward pass too, as the sum of two products over half of what is summed over each.

    In exact arithmetic that changes nothing. Sums are rounded otherwise from the first layer on, as they are in a batch of
    another shape; samples stay alone, so that a model which mixes those of a batch shows none of it here.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (_aten.mm.default, _aten.bmm.default) and not kwargs:
            return _in_halves(func, *args)
        if func is _aten.addmm.default and not kwargs:  # scaled ones have keywords, and are rare
            return _in_halves(_aten.mm.default, *args[1:]).add_(args[0])
        return func(*args, **(kwargs or {}))


def _in_halves(product: Callable[..., Any], one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The product [.., N, M] of [.., N, K] and [.., K, M]."""
    half = one.shape[-1] // 2
    if half == 0:
        found: torch.Tensor = product(one, other)
        return found
    first: torch.Tensor = product(one[..., half:], other[..., half:, :])
    return first.add_(product(one[..., :half], other[..., :half, :]))
