"""Gradients that are held as factors, and formed for a moment only where they must be projected."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.factor_products import FactorProducts
from gradsim_assets.core.sample_gradients.factor_stacks import Place
from gradsim_assets.core.sample_gradients.factor_store import FactorStore
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.layout import Layout, LayoutPart, Room
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.pending import Pending
from gradsim_assets.core.sample_gradients.projected_gradients import ProjectedGradients


class FactoredGradients:
    """The factored components of one device, of the gradients that are held in one place."""

    def __init__(
        self, layout: Layout, part: LayoutPart, room: Room, projected: Mapping[float, ProjectedGradients]
    ) -> None:
        self.components = part.stacks.components
        self._layout, self._device, self._projected = layout, part.device, projected
        self._store = FactorStore(layout, part, room)
        self._products = FactorProducts(part.stacks, layout.profile, layout.dtype)
        #: Columns of `components` by the rows of products.
        self._columns = np.searchsorted(self.components, self._products.components)
        self._places: dict[int, list[Place]] = {component: [] for component in self.components}
        for use, places in part.stacks.places.items():
            self._places[use.components["weight"]] += places

    def clear(self) -> None:
        """Forgets all samples."""
        self._store.clear()

    def begin(self, slots: slice, batch: BatchShape) -> None:
        """The slots are about to be filled by this batch."""
        self._store.begin(slots.start, batch)

    def add(self, use: ParameterUse, factors: Factors) -> None:
        """Adds a summand of every sample of the batch."""
        self._store.add(use, factors)

    def places(self, slot: int) -> list[torch.Tensor]:
        """All that is held of a slot, to be read or written."""
        return self._store.places(slot)

    def reserved(self) -> None:
        """The batch is there, without having been added: it was put back."""
        self._store.reserved()

    def finish(self, slots: slice, wanted: np.ndarray) -> Pending | None:
        """The slots are filled; returns float64 self products [wanted slots, components]."""
        self._store.finish()
        if not self.components:
            return None
        if self._projected:
            return self._project(slots, wanted)
        if not self._layout.products or not len(wanted):
            return None
        found, order = self._products.of_pairs(self._store, self._store, wanted, wanted)
        return Pending(found, np.arange(len(order)), wanted[order], self._columns, len(self.components))

    def _project(self, slots: slice, wanted: np.ndarray) -> Pending:
        """Projects every component's gradients, formed for a moment; their self products come with it."""
        squares = []
        for component in self.components:
            size = self._layout.shapes[component].numel() * self._layout.dtype.itemsize
            step = max(1, self._layout.profile.work_bytes // size)
            for start in range(slots.start, slots.stop, step):
                part = slice(start, min(start + step, slots.stop))
                gradients = self._formed(component, part)
                for projected in self._projected.values():
                    projected.put(component, part, gradients)
                squares.append(inner_products.squares(gradients))
        found, columns = torch.cat(squares).view(len(self.components), -1), np.arange(len(self.components))
        return Pending(found, wanted - slots.start, wanted, columns, len(self.components))

    def _formed(self, component: int, slots: slice) -> torch.Tensor:
        """The gradients [slots, numbers] of a component."""
        shape = (slots.stop - slots.start, *self._layout.shapes[component])
        out = torch.empty(shape, dtype=self._layout.dtype, device=self._device)
        for number, place in enumerate(self._places[component]):
            self._store.factors(place, slots).add_to(out, fresh=number == 0)
        return out.flatten(1)

    def formed(self, component: int, slots: Sequence[int] | np.ndarray) -> torch.Tensor:
        """The gradients [slots, *shape] of a component, whatever batches the samples came in."""
        shape = self._layout.shapes[component]
        out = torch.empty(len(slots), *shape, dtype=self._layout.dtype, device=self._device)
        for row, slot in enumerate(slots):
            out[row] = self._formed(component, slice(int(slot), int(slot) + 1)).view(shape)
        return out

    def project(self, slots: slice) -> None:
        """Does nothing: a gradient that is formed for a moment is projected in that moment (see `finish`)."""

    def products(self, others: "FactoredGradients", slots: np.ndarray, other_slots: np.ndarray) -> Pending | None:
        """Float64 [pairs, components]: products of own slots with another's, pair by pair."""
        if not self.components:
            return None
        found, order = self._products.of_pairs(self._store, others._store, slots, other_slots)
        return Pending(found, np.arange(len(order)), order, self._columns, len(self.components))
