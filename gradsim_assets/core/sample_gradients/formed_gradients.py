"""Gradients that are held formed: every component's numbers side by side in one row a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.layout import Layout, LayoutPart, Room
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.pending import Pending
from gradsim_assets.core.sample_gradients.projected_gradients import ProjectedGradients


@dataclass(frozen=True)
class _Alike:
    """Components of n numbers each, which stand next to each other in every row."""

    components: list[int]
    #: Of all of them.
    columns: slice
    #: Columns of each: n, filled up with zeros to whole pieces.
    width: int


class FormedGradients:
    """The formed components of one device, of the gradients that are held in one place."""

    def __init__(
        self, layout: Layout, part: LayoutPart, room: Room, projected: Mapping[float, ProjectedGradients]
    ) -> None:
        self._layout, self._projected = layout, projected
        self._alike = _alike(layout.shapes, part.formed)
        self.components = [component for alike in self._alike for component in alike.components]
        #: Columns of each component, without what it is filled up with.
        self._columns = {
            component: slice(start, start + layout.shapes[component].numel())
            for alike in self._alike
            for component, start in zip(
                alike.components, range(alike.columns.start, alike.columns.stop, alike.width), strict=True
            )
        }
        width = self._alike[-1].columns.stop if self._alike else 0
        #: [samples, numbers of all formed components], in the layout's dtype
        self._rows = torch.zeros(room.samples, width, dtype=layout.dtype, device=part.device)
        #: Of the batch in progress: its slots, and the components that got a first summand.
        self._slots, self._written = slice(0, 0), set[int]()

    def clear(self) -> None:
        """Forgets all samples; whoever comes writes every number anew."""

    def begin(self, slots: slice, batch: BatchShape) -> None:
        """The slots are about to be filled by a batch."""
        self._slots, self._written = slots, set()

    def add(self, use: ParameterUse, factors: Factors) -> None:
        """Adds a summand that comes as factors."""
        component = use.components["weight"]
        factors.add_to(self._gradients(component), fresh=self._is_first(component))

    def add_formed(self, component: int, gradients: torch.Tensor) -> None:
        """Adds a summand [B, *shape]."""
        out = self._gradients(component)
        if self._is_first(component):
            out.copy_(gradients)
        else:
            out.add_(gradients)

    def _gradients(self, component: int) -> torch.Tensor:
        """Those of the batch [B, *shape]."""
        rows, shape = self._rows[self._slots, self._columns[component]], self._layout.shapes[component]
        return rows.unflatten(1, shape) if shape else rows[:, 0]

    def _is_first(self, component: int) -> bool:
        first = component not in self._written
        self._written.add(component)
        return first

    def places(self, slot: int) -> list[torch.Tensor]:
        """All that is held of a slot, to be read or written."""
        return [self._rows[slot]]

    def finish(self, slots: slice, wanted: np.ndarray) -> Pending | None:
        """The slots are filled; returns float64 self products [wanted slots, components]."""
        for component in set(self.components) - self._written:  # an expert that no token chose, say
            self._gradients(component).zero_()
        if not self.components or not self._layout.products or not len(wanted):
            return None
        found = torch.cat([inner_products.squares(self._of(alike)[slots]) for alike in self._alike], 1).T
        return self._pending(found, wanted - slots.start, wanted)

    def _of(self, alike: _Alike) -> torch.Tensor:
        """[samples, components that are alike, their columns]"""
        return self._rows[:, alike.columns].unflatten(1, (-1, alike.width))

    def _pending(self, values: torch.Tensor, cells: np.ndarray, places: np.ndarray) -> Pending:
        return Pending(values, cells, places, np.arange(len(self.components)), len(self.components))

    def rows(self, component: int, slots: Sequence[int] | np.ndarray) -> torch.Tensor:
        """The gradients [slots, *shape] of a component."""
        where = slice(slots.start, slots.stop) if isinstance(slots, range) else torch.as_tensor(slots)
        return self._rows[:, self._columns[component]][where].reshape(-1, *self._layout.shapes[component])

    def padded_rows(self, component: int) -> torch.Tensor:
        """The gradients of a component in all slots, with the zeros that they are filled up with [slots, width]."""
        alike = next(alike for alike in self._alike if component in alike.components)
        return self._of(alike)[:, alike.components.index(component)]

    def project(self, slots: slice) -> None:
        """Projects filled slots; many at a time are cheaper."""
        for projected in self._projected.values():
            for component, columns in self._columns.items():
                projected.put(component, slots, self._rows[slots, columns])

    def products(self, others: "FormedGradients", slots: np.ndarray, other_slots: np.ndarray) -> Pending | None:
        """Float64 [pairs, components]: products of own slots with another's, pair by pair."""
        if not self.components:
            return None
        advantage = self._layout.profile.grid_advantage
        found = [
            inner_products.of_pairs(self._of(alike), others._of(alike), slots, other_slots, advantage)
            for alike in self._alike
        ]
        return self._pending(torch.cat([values for values, _ in found]), found[0][1], np.arange(len(slots)))


def _alike(shapes: Sequence[torch.Size], formed: Sequence[int]) -> list[_Alike]:
    """The formed components by their numbers of numbers."""
    by_size: dict[int, list[int]] = {}
    for component in formed:
        by_size.setdefault(shapes[component].numel(), []).append(component)
    found, end = [], 0
    for size, components in by_size.items():
        width = inner_products.whole_pieces(size)
        start, end = end, end + width * len(components)
        found.append(_Alike(components, slice(start, end), width))
    return found
