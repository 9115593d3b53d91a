"""Gradients of some samples, held so that products with others can be taken."""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.values.factored_gradients import FactoredGradients
from gradsim_assets.core.gradients.engine.values.factors import Factors
from gradsim_assets.core.gradients.engine.values.formed_gradients import FormedGradients
from gradsim_assets.core.gradients.engine.values.layout import Layout
from gradsim_assets.core.gradients.engine.values.projected_gradients import ProjectedGradients

#: Gradients that are projected together.
PROJECTED_ROWS = 16


class Form(Protocol):
    """Some components of all slots, held in one way."""

    #: Numbers of the components, ascending.
    components: list[int]

    def begin(self, slots: slice, batched: bool) -> None:
        """Empties slots that a batch (`batched`) or one sample alone is about to fill."""
        ...

    def add(self, component: int, slot: int, factors: Factors) -> None:
        """Adds a summand of a component's gradient."""
        ...

    def finish(self, slots: slice, self_products: torch.Tensor) -> None:
        """The slots are filled: a component without a summand is zero; writes float64 [slots, all components]."""
        ...

    def project(self, slots: slice) -> None:
        """Projects what `finish` has not projected."""
        ...

    def products(self, others: Self, slots: np.ndarray, other_slots: np.ndarray) -> torch.Tensor:
        """Float64 [pairs, own components]: products of own slots with another's, pair by pair."""
        ...


class HeldGradients:
    """Slots for the gradients of up to `capacity` samples; a `Sink` for the batch that is being collected.

    A batch of samples fills the next slots between `begin` and `finish`. `project` follows when no more are to come.
    Components are held as the layout says, and both forms answer to the same calls.
    """

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        #: By proportion.
        self.projected = {p: ProjectedGradients(layout, p, capacity) for p in layout.projectors}
        self._formed = FormedGradients(layout, capacity, self.projected)
        self._factored = FactoredGradients(layout, capacity, self.projected)
        self._forms: tuple[Form, ...] = (self._formed, self._factored)
        self._form_of = {component: form for form in self._forms for component in form.components}
        self._self_products = torch.zeros(capacity, len(layout.shapes), dtype=torch.float64, device=layout.device)
        self._capacity, self._count, self._projected_count = capacity, 0, 0

    def clear(self) -> None:
        """Forgets all samples; the memory stays for the next ones."""
        self._count = self._projected_count = 0
        for form in self._forms:
            form.begin(slice(0, self._capacity), batched=False)

    def begin(self, samples: int) -> None:
        """The next `samples` slots are to be filled by one batch."""
        for form in self._forms:
            form.begin(slice(self._count, self._count + samples), batched=samples > 1)

    def factors(self, component: int, sample: int, factors: Factors) -> None:
        """Takes a summand as factors (see `Sink`)."""
        self._form_of[component].add(component, self._count + sample, factors)

    def formed(self, component: int, sample: int, gradient: torch.Tensor) -> None:
        """Takes a formed summand (see `Sink`); a component that has any is not factorable."""
        self._formed.add_formed(component, self._count + sample, gradient)

    def finish(self, samples: int) -> None:
        """The batch is through: what got no gradient has one of zero; self products are taken."""
        slots = slice(self._count, self._count + samples)
        for form in self._forms:
            form.finish(slots, self._self_products[slots])
        self._count += samples

    def project(self) -> None:
        """Projects the gradients that are not yet projected."""
        for start in range(self._projected_count, self._count, PROJECTED_ROWS):
            slots = slice(start, min(start + PROJECTED_ROWS, self._count))
            for form in self._forms:
                form.project(slots)
            for projected in self.projected.values():
                projected.measure(slots)
        self._projected_count = self._count

    def self_products(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Float64 [slots, components]."""
        found: np.ndarray = self._self_products.cpu().numpy()[slots]
        return found

    def products(self, streamed: "HeldGradients", slots: np.ndarray, streamed_slots: np.ndarray) -> np.ndarray:
        """Float64 [pairs, components]: products of slots of this with slots of `streamed`, pair by pair."""
        out = torch.zeros(len(slots), len(self.layout.shapes), dtype=torch.float64, device=self.layout.device)
        for mine, theirs in zip(self._forms, streamed._forms, strict=True):
            out[:, mine.components] = mine.products(theirs, slots, streamed_slots)
        return out.cpu().numpy()
