"""Sketches of whole gradients: so few numbers that those of a million samples are kept, whose products estimate the gradients'.

The gradient G [O, I] of a matrix is a sum of left^T right over the calls of its layer. With random L [a, O] and R [b, I] it
becomes L G R^T = (left L^T)^T (right R^T), a small matrix that is made of projected factors without forming G (two-sided, as in
LoGra, Choe et al. 2024). Its numbers, and those of a component that is no matrix, are folded into d numbers by one more random
map F of each component, and the sketch is the sum over components:

    s(g) = sum_c F_c vec(L_c G_c R_c^T)

Every map is a `RolledSketch` with E[M^T M] = 1 and seeds of its own by the component's name, so that products of two different
components vanish in the mean, and E<s(g), s(g')> = <g, g'>. The variance is at most (|g|^2 |g'|^2 + <g, g'>^2) / d for the
folding, and about (1/a + 1/b) (|g_c|^2 |g'_c|^2 + <g_c, g'_c>^2) for the sides of each matrix; a side of up to a (or b) numbers is
taken as it is. Sums of components take d numbers whatever the model, and by Cauchy-Schwarz are no worse than giving each component
a share of the d numbers, unless that share could be chosen by the lengths of gradients that nobody knows beforehand.
"""

from collections.abc import Sequence

import torch

from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.projections import RolledSketch

#: Numbers that each side of a matrix is projected to: a and b.
SIDE = 64


class ComponentSketch:
    """The linear map of one component's gradients to d numbers, a function of (seed, name, shape, d, side) alone."""

    def __init__(self, name: str, shape: Sequence[int], dimension: int, seed: int = 0, side: int = SIDE) -> None:
        self.dimension = dimension
        #: L and R; None for a side that is narrow enough, and for what is no matrix.
        self._left: RolledSketch | None = None
        self._right: RolledSketch | None = None
        size = torch.Size(shape).numel()
        self.is_matrix = len(shape) == 2
        if self.is_matrix:
            self._left, self._right = (
                RolledSketch(f"{name}:{which}:{side}", width, side, seed) if width > side else None
                for which, width in zip(("left", "right"), shape, strict=True)
            )
            size = min(side, shape[0]) * min(side, shape[1])
        self._rows = min(side, shape[0]) if self.is_matrix else 0
        self._fold = RolledSketch(f"{name}:fold:{dimension}", size, dimension, seed)

    def of_factors(self, factors: Factors, dtype: torch.dtype) -> torch.Tensor:
        """The sketches [B, d] of one summand of each sample's gradient, made in `dtype`."""
        right = _on_rows(self._right, factors.right.to(dtype))
        if not factors.one_hot:
            return self._folded(_on_rows(self._left, factors.left.to(dtype)).mT @ right)
        places, signs = factors.left, None
        if self._left is not None:
            places, signs = self._left.places(factors.left)
        summands = right if signs is None else right * signs.to(dtype)[..., None]
        small = right.new_zeros(len(right) * self._rows, right.shape[-1])
        flat = places + self._rows * torch.arange(len(right), device=right.device)[:, None]
        if right.is_cuda:  # accumulating sorts first, so that sums do not depend on the order of threads
            small.index_put_((flat.flatten(),), summands.flatten(0, 1), accumulate=True)
        else:
            small.index_add_(0, flat.flatten(), summands.flatten(0, 1))
        return self._folded(small.unflatten(0, (len(right), -1)))

    def of_formed(self, gradients: torch.Tensor) -> torch.Tensor:
        """The sketches [B, d] of formed gradients [B, *shape], or of a summand of each."""
        if not self.is_matrix:
            return self._fold(gradients.reshape(len(gradients), -1))
        return self._folded(_on_rows(self._left, _on_rows(self._right, gradients).mT.contiguous()).mT)

    def _folded(self, small: torch.Tensor) -> torch.Tensor:
        return self._fold(small.reshape(len(small), -1))


def _on_rows(sketch: RolledSketch | None, rows: torch.Tensor) -> torch.Tensor:
    """[B, R, width] to [B, R, side]: every row projected; as they are where there is nothing to project."""
    return rows if sketch is None else sketch(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
