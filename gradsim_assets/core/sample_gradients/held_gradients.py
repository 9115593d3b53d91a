"""Gradients of some samples, held so that products with others can be taken."""

from collections.abc import Sequence

import numpy as np
import torch

from gradsim_assets.core.sample_gradients.factored_gradients import FactoredGradients
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.formed_gradients import FormedGradients
from gradsim_assets.core.sample_gradients.kept_gradient import KeptGradient, on_host, put_back
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.layout import Layout, LayoutPart, Room
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.pending import Pending
from gradsim_assets.core.sample_gradients.projected_gradients import ProjectedGradients

#: Gradients that are projected together.
PROJECTED_ROWS = 16


class _OnDevice:
    """What is held on one device: its components in both forms, and their part of the projections."""

    def __init__(self, layout: Layout, part: LayoutPart, room: Room) -> None:
        #: By proportion.
        self.projected = {p: ProjectedGradients(layout, part, p, room.samples) for p in layout.projectors}
        self.formed = FormedGradients(layout, part, room, self.projected)
        self.factored = FactoredGradients(layout, part, room, self.projected)

    @property
    def forms(self) -> tuple[FormedGradients, FactoredGradients]:
        """Both, which answer to the same calls."""
        return self.formed, self.factored

    def places(self, slot: int) -> list[torch.Tensor]:
        """All that is held of a slot, to be read or written."""
        found = [place for form in self.forms for place in form.places(slot)]
        return found + [place for projected in self.projected.values() for place in projected.places(slot)]


class HeldGradients:
    """Slots for the gradients of samples, as many as there is room for; a `Sink` for the batch that is being collected.

    A batch of samples fills the next slots between `begin` and `finish`. `project` follows when no more are to come.
    Components are held as the layout says, each on the device of its weight.
    """

    def __init__(self, layout: Layout, room: Room) -> None:
        self.layout = layout
        self._parts = [_OnDevice(layout, part, room) for part in layout.parts]
        self._forms = [form for part in self._parts for form in part.forms]
        #: By component.
        self._formed = {component: part.formed for part in self._parts for component in part.formed.components}
        self._factored = {component: part.factored for part in self._parts for component in part.factored.components}
        #: Float64 [slots, components], once they are fetched; and what is still to be.
        self._self_products = np.full((room.samples, len(layout.shapes)), np.nan)
        self._pending: list[tuple[list[int], Pending]] = []
        #: Those of the batch on its way, and how many the finished ones take.
        self._slots, self._count = slice(0, 0), 0
        self._projected_count = 0

    def clear(self) -> None:
        """Forgets all samples; the memory stays for the next ones."""
        self._count, self._projected_count, self._pending = 0, 0, []
        for form in self._forms:
            form.clear()

    def begin(self, batch: BatchShape) -> None:
        """The next slots are to be filled by this batch, anew where another began to but was not finished."""
        self._slots = slice(self._count, self._count + batch.samples)
        for form in self._forms:
            form.begin(self._slots, batch)

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors (see `Sink`)."""
        component = use.components["weight"]
        form = self._factored.get(component) or self._formed[component]
        form.add(use, factors)

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes a formed summand (see `Sink`); a component that has any is not factorable."""
        self._formed[component].add_formed(component, gradients)

    def finish(self, known: Sequence[np.ndarray | None] = ()) -> None:
        """The batch is through: what got no gradient has one of zero, and self products are on their way.

        `known` are those of each sample [components] that need not be computed again.
        """
        slots = self._slots
        self._count = slots.stop
        known = known or [None] * (slots.stop - slots.start)
        wanted = np.asarray([slots.start + place for place, own in enumerate(known) if own is None], np.int64)
        for slot, own in enumerate(known, slots.start):
            if own is not None:
                self._self_products[slot] = own
        for form in self._forms:
            pending = form.finish(slots, wanted)
            if pending is not None:
                self._pending.append((form.components, pending))

    def taken_out(self, slot: int, shape: BatchShape) -> KeptGradient:
        """A copy of a slot's gradient in the host's memory, after `project`; `shape` is that of its sample alone."""
        return KeptGradient(
            shape=shape,
            tensors=[on_host(part.places(slot)) for part in self._parts],
            self_products=self.self_products([slot])[0].copy(),
        )

    def put_back(self, kept: KeptGradient) -> None:
        """Fills the next slot with a gradient that was taken out of one of the same layout; it need not be projected."""
        self.begin(kept.shape)
        slot = self._slots.start
        for part, tensors in zip(self._parts, kept.tensors, strict=True):
            put_back(part.places(slot), tensors)
            part.factored.reserved()
        self._self_products[slot] = kept.self_products
        self._count = self._projected_count = self._slots.stop

    def project(self) -> None:
        """Projects the gradients that are not yet projected."""
        for start in range(self._projected_count, self._count, PROJECTED_ROWS):
            slots = slice(start, min(start + PROJECTED_ROWS, self._count))
            for form in self._forms:
                form.project(slots)
            for part in self._parts:
                for projected in part.projected.values():
                    projected.measure(slots)
        self._projected_count = self._count

    @property
    def count(self) -> int:
        """Slots that are filled."""
        return self._count

    def formed_rows(self, component: int, slots: Sequence[int] | np.ndarray) -> torch.Tensor:
        """A component's gradients [slots, *shape], formed for the moment where they are held as factors."""
        if component in self._factored:
            return self._factored[component].formed(component, slots)
        return self._formed[component].rows(component, slots)

    def padded_rows(self, component: int) -> torch.Tensor | None:
        """A component's gradients as they lie in memory, [all slots, numbers filled up to whole pieces]; None for factors."""
        return None if component in self._factored else self._formed[component].padded_rows(component)

    def self_products(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Float64 [slots, components]."""
        for components, pending in self._pending:
            self._self_products[pending.places[:, None], components] = pending.fetch()
        self._pending = []
        return self._self_products[np.asarray(slots, np.int64)]

    def products(self, streamed: "HeldGradients", slots: np.ndarray, streamed_slots: np.ndarray) -> np.ndarray:
        """Float64 [pairs, components]: products of slots of this with slots of `streamed`, pair by pair."""
        pending: list[tuple[list[int], Pending | None]] = []
        for mine, theirs in zip(self._parts, streamed._parts, strict=True):  # all are at work before one is waited for
            pending += [
                (mine.formed.components, mine.formed.products(theirs.formed, slots, streamed_slots)),
                (mine.factored.components, mine.factored.products(theirs.factored, slots, streamed_slots)),
            ]
        out = np.zeros((len(slots), len(self.layout.shapes)))
        for components, found in pending:
            if found is not None:
                out[found.places[:, None], components] = found.fetch()
        return out

    def projected_products(
        self, proportion: float, streamed: "HeldGradients", slots: np.ndarray, streamed_slots: np.ndarray
    ) -> np.ndarray:
        """Float64 [pairs, 3]: products of projections, pair by pair, and those of both sides with themselves."""
        both = [
            (mine.projected[proportion], theirs.projected[proportion])
            for mine, theirs in zip(self._parts, streamed._parts, strict=True)
        ]
        first, *others = (mine.products(theirs, slots, streamed_slots) for mine, theirs in both)
        return sum(others, start=first)
