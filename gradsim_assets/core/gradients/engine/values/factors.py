"""Factors of gradients: what a layer's gradient is made of, and products of gradients that are never formed.

The gradient of a weight matrix is sum_s left_s right_s^T over the tokens s of a sample. For two samples

    <G, G'> = sum_{s,t} (left_s . left'_t) (right_s . right'_t)

costs 2 S S' (O + I) instead of the 2 O I of the formed gradients plus 2 S O I each to form them (the "ghost" product
of Li et al. 2022 and Bu et al. 2022, for two samples instead of one). An embedding's `left` is one-hot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradsim_assets.core.gradients.engine.values.inner_products import dot


@dataclass(frozen=True)
class Factors:
    """One summand left^T right of a matrix's gradient [O, I], made of S tokens of one sample."""

    #: Dense [S, O], or int64 [S]: token ids that stand for one-hot rows of width O.
    left: torch.Tensor
    #: Dense [S, I]
    right: torch.Tensor

    @property
    def one_hot(self) -> bool:
        """Whether `left` holds token ids."""
        return self.left.dtype == torch.int64

    def add_to(self, out: torch.Tensor, fresh: bool) -> None:
        """Writes (`fresh`) or adds the formed gradient to `out` [O, I], accumulating in out's dtype."""
        if self.one_hot:
            if fresh:
                out.zero_()
            out.index_add_(0, self.left, self.right.to(out.dtype))
        elif fresh:
            torch.mm(self.left.to(out.dtype).T, self.right.to(out.dtype), out=out)
        else:
            out.addmm_(self.left.to(out.dtype).T, self.right.to(out.dtype))

    def copied(self) -> "Factors":
        """The same factors in memory of their own: a view into a padded batch would keep the padding alive as well."""
        return Factors(self.left.clone(), self.right.clone())


class Grams:
    """Products of token vectors of two samples, computed once where layers share an input (q, k and v do)."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._known: dict[tuple[int, int], torch.Tensor] = {}

    def of(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Products [S, S'] of the rows of [S, I] and [S', I]."""
        key = (id(one), id(other))
        if key not in self._known:
            if len(self._known) >= 4:  # a shared input is used by consecutive layers, so few suffice
                self._known.pop(next(iter(self._known)))
            self._known[key] = one.to(self._dtype) @ other.to(self._dtype).T
        return self._known[key]


def ghost_product(ones: Sequence[Factors], others: Sequence[Factors], grams: Grams, dtype: torch.dtype) -> torch.Tensor:
    """<sum of ones, sum of others> as a float64 scalar tensor, without forming either gradient; `dtype` multiplies."""
    total = torch.zeros((), dtype=torch.float64, device=ones[0].right.device)
    for one in ones:
        for other in others:
            left = _left_gram(one, other, dtype)
            total = total + dot(left.reshape(-1), grams.of(one.right, other.right).reshape(-1))
    return total


def _left_gram(one: Factors, other: Factors, dtype: torch.dtype) -> torch.Tensor:
    """Products [S, S'] of the rows of two lefts, one-hot or dense."""
    if one.one_hot and other.one_hot:
        return (one.left[:, None] == other.left[None, :]).to(dtype)
    if one.one_hot:
        return other.left[:, one.left].to(dtype).T
    if other.one_hot:
        return one.left[:, other.left].to(dtype)
    return one.left.to(dtype) @ other.left.to(dtype).T
