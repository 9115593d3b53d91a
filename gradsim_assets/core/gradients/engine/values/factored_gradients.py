"""Gradients that are held as factors, and formed for a moment only where they must be projected."""

from collections.abc import Mapping

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.values import inner_products
from gradsim_assets.core.gradients.engine.values.factors import Factors, Grams, ghost_product
from gradsim_assets.core.gradients.engine.values.layout import Layout
from gradsim_assets.core.gradients.engine.values.projected_gradients import ProjectedGradients


class FactoredGradients:
    """The factored components of up to `capacity` gradients."""

    def __init__(self, layout: Layout, capacity: int, projected: Mapping[float, ProjectedGradients]) -> None:
        self.components = sorted(layout.factored)
        self._layout, self._projected = layout, projected
        #: By slot, then component: the summands of its gradient. A component without any has a gradient of zero.
        self._summands: list[dict[int, list[Factors]]] = [{} for _ in range(capacity)]
        self._batched = False

    def begin(self, slots: slice, batched: bool) -> None:
        """Empties slots that a batch (`batched`) or one sample alone is about to fill."""
        self._batched = batched
        for slot in range(slots.start, slots.stop):
            self._summands[slot] = {}

    def add(self, component: int, slot: int, factors: Factors) -> None:
        """Adds a summand."""
        kept = factors.copied() if self._batched else factors
        self._summands[slot].setdefault(component, []).append(kept)

    def finish(self, slots: slice, self_products: torch.Tensor) -> None:
        """The slots are filled: a component without a summand is zero; writes float64 [slots, all components]."""
        for slot in range(slots.start, slots.stop):
            self._finish(slot, self_products[slot - slots.start])

    def _finish(self, slot: int, self_products: torch.Tensor) -> None:
        grams = Grams(self._layout.dtype)
        for component in self.components:
            summands = self._summands[slot].get(component)
            if summands is None:
                self_products[component] = 0
                for projected in self._projected.values():
                    projected.put_zero(component, slot)
            elif self._projected:
                gradient = self._formed(component, summands).view(1, -1)
                for projected in self._projected.values():
                    projected.put(component, slice(slot, slot + 1), gradient)
                self_products[component] = inner_products.squares(gradient)[0]
            else:
                self_products[component] = ghost_product(summands, summands, grams, self._layout.dtype)
        if not self._layout.products:
            self._summands[slot] = {}

    def _formed(self, component: int, summands: list[Factors]) -> torch.Tensor:
        out = torch.empty(self._layout.shapes[component], dtype=self._layout.dtype, device=self._layout.device)
        for position, factors in enumerate(summands):
            factors.add_to(out, fresh=position == 0)
        return out

    def project(self, slots: slice) -> None:
        """Does nothing: a gradient that is formed for a moment is projected in that moment (see `finish`)."""

    def products(self, others: "FactoredGradients", slots: np.ndarray, other_slots: np.ndarray) -> torch.Tensor:
        """Float64 [pairs, factored components]: products of one's slots with another's, pair by pair."""
        out = torch.zeros(len(slots), len(self.components), dtype=torch.float64, device=self._layout.device)
        if not self.components:
            return out
        for pair, (slot, other_slot) in enumerate(zip(slots.tolist(), other_slots.tolist(), strict=True)):
            grams = Grams(self._layout.dtype)
            mine, theirs = self._summands[slot], others._summands[other_slot]
            for number, component in enumerate(self.components):
                if component in mine and component in theirs:
                    out[pair, number] = ghost_product(mine[component], theirs[component], grams, self._layout.dtype)
        return out
