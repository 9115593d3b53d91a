"""Preconditioners: what gradients are multiplied with before the product, component by component.

A product is <g, P g'> with a symmetric P that is block-diagonal by component. Of every component P is diagonal in some
orthogonal basis: that of the parameters, or a Kronecker product of a basis of a matrix's rows and one of its columns. So
P = W^T W with W g = scale * (L^T G R) (whitened), and P g = L (scale * W g) R^T.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

#: The kinds there are: second moments as Adam divides by them, and Kronecker factors with corrected eigenvalues.
ADAM, EKFAC = "adam", "ekfac"

#: The widest side of a matrix that gets a basis of its own. A wider one (of a vocabulary) keeps that of the parameters: a basis
#: of it would have more numbers than all layers of most models together.
WIDEST_BASIS = 16384


@dataclass(frozen=True)
class ComponentPreconditioner:
    """W of one component, with P = W^T W. Gradients are [k, *shape of the component]."""

    #: As the component.
    scale: torch.Tensor
    #: Orthogonal, its columns the basis of the rows: [O, O], or [E, O, O] of a stack of matrices; None: that of the parameters.
    left: torch.Tensor | None = None
    #: The same of the columns: [I, I] or [E, I, I].
    right: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "ComponentPreconditioner":
        """The same on another device, in another dtype."""
        bases = (None if basis is None else basis.to(device, dtype) for basis in (self.left, self.right))
        return ComponentPreconditioner(self.scale.to(device, dtype), *bases)

    def whiten(self, gradients: torch.Tensor) -> torch.Tensor:
        """W g of every gradient."""
        return rotated(gradients, self.left, self.right) * self.scale

    def unwhiten(self, whitened: torch.Tensor) -> torch.Tensor:
        """W^T u, which makes P g of u = W g."""
        turned = (None if basis is None else basis.mT for basis in (self.left, self.right))
        return rotated(whitened * self.scale, *turned)


def rotated(gradients: torch.Tensor, left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor:
    """L^T G R of gradients [k, ..., O, I]; a basis of None leaves its side as it is."""
    out = gradients if left is None else left.mT @ gradients
    return out if right is None else out @ right


class Preconditioner(Protocol):
    """P of all components of a model."""

    @property
    def digest(self) -> str:
        """The same for the same numbers."""
        ...

    def of(self, component: str) -> ComponentPreconditioner:
        """W of a component by its name, on the CPU, in at least fp32."""
        ...


#: By name, such as ADAM or EKFAC.
Preconditioners = Mapping[str, Preconditioner]


def basis_widths(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The widths of the sides of a component of this shape that may get a basis of their own in a kind of preconditioner."""
    if kind != EKFAC or len(shape) not in (2, 3):
        return ()
    return tuple(width for width in shape[-2:] if width <= WIDEST_BASIS)


def numbers_of(kind: str, shape: tuple[int, ...]) -> int:
    """Numbers that a component of this shape takes in a preconditioner of a kind, at most."""
    size = 1
    for length in shape:
        size *= length
    stacked = shape[0] if len(shape) == 3 else 1
    return size + stacked * sum(width * width for width in basis_widths(kind, shape))
