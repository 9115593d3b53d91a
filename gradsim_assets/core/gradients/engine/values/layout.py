"""How gradients are held: which components as factors, which formed, and the projections that go with them."""

from dataclasses import dataclass
from itertools import accumulate

import torch

from gradsim_assets.core.gradients.projections import Projector


@dataclass(frozen=True)
class Layout:
    """What all gradients of a block have in common."""

    #: Shapes of the components, in model order.
    shapes: list[torch.Size]
    #: Components that are held as factors; the others are formed.
    factored: frozenset[int]
    #: By proportion: the projector of each component.
    projectors: dict[float, list[Projector]]
    #: In which gradients are formed and multiplied.
    dtype: torch.dtype
    device: torch.device
    #: Whether per-component products are wanted, or projections alone.
    products: bool = True

    @property
    def formed(self) -> list[int]:
        """Components that are formed."""
        return [component for component in range(len(self.shapes)) if component not in self.factored]


def adjacent(widths: list[int]) -> list[slice]:
    """Columns of blocks of these widths that stand side by side in a row."""
    ends = list(accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
