"""Gradients that are held formed: every component's numbers side by side in one row a sample."""

from collections.abc import Mapping

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.values import inner_products
from gradsim_assets.core.gradients.engine.values.factors import Factors
from gradsim_assets.core.gradients.engine.values.layout import Layout, adjacent
from gradsim_assets.core.gradients.engine.values.projected_gradients import ProjectedGradients


class FormedGradients:
    """The formed components of up to `capacity` gradients."""

    def __init__(self, layout: Layout, capacity: int, projected: Mapping[float, ProjectedGradients]) -> None:
        self.components = layout.formed
        self._layout, self._projected = layout, projected
        columns = adjacent([layout.shapes[component].numel() for component in self.components])
        self._columns = dict(zip(self.components, columns, strict=True))
        width = columns[-1].stop if columns else 0
        #: [capacity, numbers of all formed components], in the layout's dtype
        self._rows = torch.empty(capacity, width, dtype=layout.dtype, device=layout.device)
        #: Components of each slot that got a first summand.
        self._written: list[set[int]] = [set() for _ in range(capacity)]

    def begin(self, slots: slice, batched: bool) -> None:
        """Empties slots that are about to be filled; factors are formed at once, so it is all the same who fills them."""
        for slot in range(slots.start, slots.stop):
            self._written[slot] = set()

    def add(self, component: int, slot: int, factors: Factors) -> None:
        """Adds a summand that comes as factors."""
        factors.add_to(self._gradient(component, slot), fresh=self._is_first(component, slot))

    def add_formed(self, component: int, slot: int, gradient: torch.Tensor) -> None:
        """Adds a summand in the parameter's own shape."""
        out = self._gradient(component, slot)
        if self._is_first(component, slot):
            out.copy_(gradient)
        else:
            out.add_(gradient)

    def _gradient(self, component: int, slot: int) -> torch.Tensor:
        return self._rows[slot, self._columns[component]].view(self._layout.shapes[component])

    def _is_first(self, component: int, slot: int) -> bool:
        first = component not in self._written[slot]
        self._written[slot].add(component)
        return first

    def finish(self, slots: slice, self_products: torch.Tensor) -> None:
        """The slots are filled: a component without a summand is zero; writes float64 [slots, all components]."""
        for component, columns in self._columns.items():
            for slot in range(slots.start, slots.stop):
                if component not in self._written[slot]:  # an expert that no token chose, say
                    self._rows[slot, columns] = 0
            if self._layout.products:
                self_products[:, component] = inner_products.squares(self._rows[slots, columns])

    def project(self, slots: slice) -> None:
        """Projects filled slots; many at a time are cheaper."""
        for projected in self._projected.values():
            for component, columns in self._columns.items():
                projected.put(component, slots, self._rows[slots, columns])

    def products(self, others: "FormedGradients", slots: np.ndarray, other_slots: np.ndarray) -> torch.Tensor:
        """Float64 [pairs, formed components]: products of one's slots with another's, pair by pair."""
        out = torch.zeros(len(slots), len(self.components), dtype=torch.float64, device=self._layout.device)
        for number, columns in enumerate(self._columns.values()):
            one, other = self._rows[:, columns], others._rows[:, columns]
            out[:, number] = inner_products.of_pairs(one, other, slots, other_slots)
        return out
