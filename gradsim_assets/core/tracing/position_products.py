"""What every two positions of two samples add to the product of the samples' gradients."""

import torch

from gradsim_assets.core.sample_gradients.factors import batched_products, left_products
from gradsim_assets.core.tracing.position_rows import Rows, SampleRows


def position_products(one: SampleRows, other: SampleRows, lengths: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """[T, T'] in the dtype and on the device of `like`: entry (t, s) is the sum over components of the product of what position
    t of one sample and position s of the other add to their gradients.

    All entries together are the product of the two gradients; the sums over rows and over columns are what each position of
    either sample makes up of it.
    """
    out = torch.zeros(lengths, dtype=like.dtype, device=like.device)
    known = _RightProducts(out.dtype)
    for component in one.keys() & other.keys():
        for own in one[component]:
            for its in other[component]:
                _add(out, own, its, known)
    return out


def _add(out: torch.Tensor, one: Rows, other: Rows, known: "_RightProducts") -> None:
    products = known.of(one.right, other.right)
    if one.left is not None and other.left is not None:  # vectors have none
        products = products * left_products(one.left[None], other.left[None], out.dtype)[0]
    if one.positions is None and other.positions is None:
        out += products
        return
    rows, columns = (_places(rows, length) for rows, length in zip((one, other), out.shape, strict=True))
    out.index_put_((rows[:, None], columns[None]), products, accumulate=True)


def _places(rows: Rows, length: int) -> torch.Tensor:
    if rows.positions is not None:
        return rows.positions
    return torch.arange(length, device=rows.right.device)


class _RightProducts:
    """Products of right factors; layers that read the same input come one behind the other and share them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def of(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """[R, R'] of [R, I] and [R', I]."""
        if self._last is not None and _same(self._last[0], one) and _same(self._last[1], other):
            return self._last[2]
        found = batched_products(one[None], other[None], self._dtype)[0]
        self._last = (one, other, found)
        return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
