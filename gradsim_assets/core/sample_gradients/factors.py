"""Factors of gradients: what a layer's gradient is made of, sample by sample of a batch.

The gradient of a weight matrix is sum_s left_s right_s^T over the tokens s of a sample. For two samples

    <G, G'> = sum_{s,t} (left_s . left'_t) (right_s . right'_t)

costs 2 S S' (O + I) instead of the 2 O I of the formed gradients plus 2 S O I each to form them (the "ghost" product
of Li et al. 2022 and Bu et al. 2022, for two samples instead of one). An embedding's `left` is one-hot.
"""

from dataclasses import dataclass

import torch

#: Numbers of a matrix of which, on a CPU, those of a batch are formed together.
SMALL = 2**12


@dataclass(frozen=True)
class Factors:
    """One summand left^T right of a matrix's gradient [O, I], for each of B samples made of R rows.

    Rows that a sample does not have (it is shorter than the longest of its batch) are zero in `left` or in `right`.
    """

    #: Dense [B, R, O], or int64 [B, R]: token ids that stand for one-hot rows of width O.
    left: torch.Tensor
    #: Dense [B, R, I]
    right: torch.Tensor

    @property
    def one_hot(self) -> bool:
        """Whether `left` holds token ids."""
        return self.left.dtype == torch.int64

    def of_sample(self, sample: int) -> "Factors":
        """The summand of one sample."""
        return Factors(self.left[sample : sample + 1], self.right[sample : sample + 1])

    def add_to(self, out: torch.Tensor, fresh: bool) -> None:
        """Writes (`fresh`) or adds the formed gradients to `out` [B, O, I], accumulating in out's dtype."""
        if out.is_cuda and not self.one_hot:
            left, right = self.left.to(out.dtype).mT, self.right.to(out.dtype)
            torch.baddbmm(out, left, right, beta=0 if fresh else 1, out=out)
            return
        if not self.one_hot and out[0].numel() <= SMALL:  # calls cost more than products there
            formed = torch.bmm(self.left.to(out.dtype).mT, self.right.to(out.dtype))
            out.copy_(formed) if fresh else out.add_(formed)
            return
        for one, left, right in zip(out, self.left, self.right.to(out.dtype), strict=True):
            if fresh and self.one_hot:
                one.zero_()
            if not self.one_hot:  # on CPU a batched product into rows that lie apart is slow
                torch.addmm(one, left.to(out.dtype).T, right, beta=0 if fresh else 1, out=one)
            elif out.is_cuda:  # accumulating sorts the ids first, so that sums do not depend on the order of threads
                one.index_put_((left,), right, accumulate=True)
            else:
                one.index_add_(0, left, right)


def left_products(ones: torch.Tensor, others: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Products [K, S, S'] of the rows of two lefts [K, S(, O)] and [K, S'(, O)], one-hot or dense."""
    if ones.dim() == 2 and others.dim() == 2:
        return (ones[:, :, None] == others[:, None, :]).to(dtype)
    if ones.dim() == 2:
        return _columns(others, ones).to(dtype).mT
    if others.dim() == 2:
        return _columns(ones, others).to(dtype)
    return batched_products(ones, others, dtype)


def _columns(dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """[K, S, S'] of [K, S, O]: the columns that ids [K, S'] name, which are products with one-hot rows."""
    return dense.gather(2, ids[:, None, :].expand(-1, dense.shape[1], -1))


def batched_products(ones: torch.Tensor, others: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Products [K, S, S'] of the rows of [K, S, W] and [K, S', W], multiplied and summed up in `dtype`."""
    if ones.dtype == dtype:
        return torch.bmm(ones, others.mT)
    if ones.is_cuda:  # products of two halves are exact there, and are summed up in fp32
        return torch.bmm(ones, others.mT, out_dtype=dtype)
    return torch.bmm(ones.to(dtype), others.to(dtype).mT)
