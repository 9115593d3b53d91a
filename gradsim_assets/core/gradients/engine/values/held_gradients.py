"""Gradients of some samples, held so that products with others can be taken: formed in rows, or as factors."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.values import inner_products
from gradsim_assets.core.gradients.engine.values.factors import Grams, Part, ghost_product
from gradsim_assets.core.gradients.projections import Projector

#: Rows that are projected together.
SKETCH_ROWS = 16


@dataclass(frozen=True)
class Layout:
    """How a gradient is laid out: which components are formed, where in a row, and the projections that go with it."""

    shapes: list[torch.Size]
    factored: frozenset[int]
    projectors: dict[float, list[Projector]]
    dtype: torch.dtype
    device: torch.device
    products: bool = True  # whether per-component products are wanted, or projections alone

    @property
    def formed(self) -> list[int]:
        """Components that are formed in rows."""
        return [component for component in range(len(self.shapes)) if component not in self.factored]

    def slices(self) -> dict[int, slice]:
        """Columns of each formed component in a row."""
        ends = list(accumulate(self.shapes[component].numel() for component in self.formed))
        return {
            component: slice(end - self.shapes[component].numel(), end)
            for component, end in zip(self.formed, ends, strict=True)
        }

    def sketch_slices(self, proportion: float) -> list[slice]:
        """Columns of each component in a projected gradient."""
        ends = list(accumulate(projector.dimension for projector in self.projectors[proportion]))
        return [slice(end - p.dimension, end) for end, p in zip(ends, self.projectors[proportion], strict=True)]


class Store:
    """Slots for the gradients of up to `capacity` samples; a `Sink` for the batch that is being drawn off."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout, self.capacity, self.count = layout, capacity, 0
        self._slices = layout.slices()
        width = max((part.stop for part in self._slices.values()), default=0)
        self.rows = self._new(width)
        self.sketches = {
            p: self._new(sum(q.dimension for q in projectors)) for p, projectors in layout.projectors.items()
        }
        self.lengths = {p: torch.zeros(capacity, dtype=torch.float64, device=layout.device) for p in layout.projectors}
        self._sketch_slices = {p: layout.sketch_slices(p) for p in layout.projectors}
        self.selves = torch.zeros(capacity, len(layout.shapes), dtype=torch.float64, device=layout.device)
        self.factors: list[dict[int, list[Part]]] = [{} for _ in range(capacity)]
        self._written: list[set[int]] = [set() for _ in range(capacity)]
        self._copy = False
        self._sketched = 0

    def _new(self, columns: int) -> torch.Tensor:
        return torch.empty(self.capacity, columns, dtype=self.layout.dtype, device=self.layout.device)

    def clear(self) -> None:
        """Forgets all samples; the memory stays for the next ones."""
        self.count = self._sketched = 0
        self.factors = [{} for _ in range(self.capacity)]
        self._written = [set() for _ in range(self.capacity)]

    def begin(self, samples: int) -> None:
        """The next `samples` slots are to be filled by one batch."""
        self._copy = samples > 1  # a view into a padded batch would hold the padding as well
        for slot in range(self.count, self.count + samples):
            self.factors[slot], self._written[slot] = {}, set()

    def part(self, component: int, sample: int, part: Part) -> None:
        """Takes a factored summand (see `Sink`)."""
        slot = self.count + sample
        if component in self.layout.factored:
            kept = Part(*(tensor.clone() if self._copy else tensor for tensor in part.tensors()))
            self.factors[slot].setdefault(component, []).append(kept)
            return
        out = self.rows[slot, self._slices[component]].view(self.layout.shapes[component])
        part.add_to(out, fresh=component not in self._written[slot])
        self._written[slot].add(component)

    def dense(self, component: int, sample: int, gradient: torch.Tensor) -> None:
        """Takes a formed summand (see `Sink`)."""
        slot = self.count + sample
        out = self.rows[slot, self._slices[component]].view(self.layout.shapes[component])
        if component in self._written[slot]:
            out.add_(gradient)
        else:
            out.copy_(gradient)
        self._written[slot].add(component)

    def finish(self, samples: int) -> None:
        """The batch is through: what got no gradient has one of zero; self products are taken."""
        slots, batch = range(self.count, self.count + samples), slice(self.count, self.count + samples)
        for component, columns in self._slices.items():
            for slot in slots:
                if component not in self._written[slot]:  # an expert that no token chose, say
                    self.rows[slot, columns] = 0
            if self.layout.products:
                self.selves[batch, component] = inner_products.squares(self.rows[batch, columns])
        for slot in slots:
            self._finish_factors(slot)
        self.count += samples

    def _finish_factors(self, slot: int) -> None:
        grams = Grams(self.layout.dtype)
        for component in sorted(self.layout.factored):
            parts = self.factors[slot].get(component)
            if parts is None:
                self.selves[slot, component] = 0
                for p, slices in self._sketch_slices.items():
                    self.sketches[p][slot, slices[component]] = 0
                continue
            if self.layout.projectors:
                formed = self.rows.new_empty(self.layout.shapes[component])
                for position, part in enumerate(parts):
                    part.add_to(formed, fresh=position == 0)
                flat = formed.view(1, -1)
                for p, slices in self._sketch_slices.items():
                    self.sketches[p][slot, slices[component]] = self.layout.projectors[p][component](flat)[0]
                self.selves[slot, component] = inner_products.squares(flat)[0]
            else:
                self.selves[slot, component] = ghost_product(parts, parts, grams, self.layout.dtype)
        if not self.layout.products:
            self.factors[slot] = {}

    def sketch(self) -> None:
        """Projects the formed gradients that are not yet projected, many rows at a time: it is cheaper so."""
        for start in range(self._sketched, self.count, SKETCH_ROWS):
            self._sketch_rows(slice(start, min(start + SKETCH_ROWS, self.count)))
        self._sketched = self.count

    def _sketch_rows(self, slots: slice) -> None:
        for p, slices in self._sketch_slices.items():
            for component, columns in self._slices.items():
                projector = self.layout.projectors[p][component]
                self.sketches[p][slots, slices[component]] = projector(self.rows[slots, columns])
            self.lengths[p][slots] = inner_products.squares(self.sketches[p][slots]).sqrt()

    def selves_of(self, slots: Sequence[int] | np.ndarray) -> np.ndarray:
        """Self products, float64 [slots, components]."""
        return self.selves.cpu().numpy()[slots]


def products(held: Store, streamed: Store, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Float64 [pairs, components]: products of slots `ones` of `held` with slots `others` of `streamed`."""
    layout = held.layout
    out = torch.zeros(len(ones), len(layout.shapes), dtype=torch.float64, device=layout.device)
    for component, columns in layout.slices().items():
        out[:, component] = inner_products.of_pairs(held.rows[:, columns], streamed.rows[:, columns], ones, others)
    if layout.factored:
        for pair, (one, other) in enumerate(zip(ones.tolist(), others.tolist(), strict=True)):
            grams = Grams(layout.dtype)
            for component in sorted(held.factors[one].keys() & streamed.factors[other].keys()):
                left, right = held.factors[one][component], streamed.factors[other][component]
                out[pair, component] = ghost_product(left, right, grams, layout.dtype)
    return out.cpu().numpy()


def projected_cosines(
    held: Store, streamed: Store, ones: np.ndarray, others: np.ndarray, proportion: float
) -> np.ndarray:
    """Float64 [pairs] cosines of projected full gradients; NaN where one has no length."""
    one, other = held.sketches[proportion], streamed.sketches[proportion]
    dots = inner_products.of_pairs(one, other, ones, others).cpu().numpy()
    lengths = (held.lengths[proportion].cpu().numpy()[ones], streamed.lengths[proportion].cpu().numpy()[others])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths[0] * lengths[1] > 0, dots / (lengths[0] * lengths[1]), np.nan)
