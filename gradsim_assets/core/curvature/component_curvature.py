"""The curvature of a component: second moments of its gradients in some basis, and the kind of basis that it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.layers import EmbeddingUse, MatrixUse
from gradsim_assets.core.sample_gradients.preconditioning import EKFAC, basis_widths

#: What a component's bases come of.
#:
#: diagonal: it has none, as norms, biases and whatever is no matrix.
#: tokens: E[x x^T] and E[s s^T] over the tokens that a linear layer saw, x its inputs and s the gradients of its outputs. The
#:     bias of the layer is a component of its own, and no part of x.
#: embedding: the rows keep the basis of the parameters, which is the eigenbasis of E[x x^T] of one-hot x; that of the columns
#:     comes of E[s s^T] over tokens.
#: tied: an embedding that is the output layer as well. Rows (tokens of the vocabulary) keep the basis of the parameters, that of
#:     the columns comes of E[G^T G] over samples, G the gradient of both uses together.
#: gradients: E[G G^T] and E[G^T G] over samples (as Shampoo has it, Gupta et al. 2018), of matrices whose gradients autograd
#:     forms, and of each expert of a stack [E, O, I] of them.
Kind = Literal["diagonal", "tokens", "embedding", "tied", "gradients"]


@dataclass(frozen=True)
class ComponentCurvature:
    """F of one component: diagonal in the bases, with the mean squares of gradients as eigenvalues.

    The eigenvalues are those of George et al. 2018 ("corrected"): with orthogonal L and R the mean over samples of
    (L^T G R)^2, number by number, which is the best diagonal in these bases. Cross terms of the tokens of a sample and of the
    uses of a parameter are in it.
    """

    kind: Kind
    #: Of the component's shape.
    moments: torch.Tensor
    #: Orthogonal, by columns; None: the basis of the parameters (see `ComponentPreconditioner`).
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None
    #: Samples that moments are means over; None where an optimizer has averaged them.
    samples: int | None = None
    #: Tokens (rows that the layer saw) that bases come of; None where they come of none.
    tokens: int | None = None
    #: What the optimizer adds to the square root of a moment; None where nobody says.
    epsilon: float | None = None


@dataclass(frozen=True)
class Bases:
    """Which bases a component is to have."""

    kind: Kind
    #: Widths of the sides of the matrix (or of each of a stack of matrices) that get one; None for a side that does not.
    left: int | None = None
    right: int | None = None


def bases_of(hooks: GradientHooks) -> list[Bases]:
    """The bases of every component in EK-FAC, by the uses that hooks have found."""
    uses: dict[int, set[type]] = {}
    for use in hooks.uses:
        if "weight" in use.components:
            uses.setdefault(use.components["weight"], set()).add(type(use))
    return [_bases(tuple(shape), uses.get(number, set())) for number, shape in enumerate(hooks.shapes)]


def _bases(shape: tuple[int, ...], uses: set[type]) -> Bases:
    if len(shape) not in (2, 3):
        return Bases("diagonal")
    narrow = basis_widths(EKFAC, shape)
    left, right = (width if width in narrow else None for width in shape[-2:])
    if uses == {MatrixUse}:
        return Bases("tokens", left, right)
    if uses == {EmbeddingUse}:
        return Bases("embedding", None, right)
    if uses == {EmbeddingUse, MatrixUse}:
        return Bases("tied", None, right)
    return Bases("gradients", left, right)


#: By component.
Curvature = Mapping[str, ComponentCurvature]
