"""Preconditioned products of held gradients with streamed ones: P is applied to the streamed ones, once each.

Held gradients stay as they are, formed or factored. A component is formed for a moment where it is held as factors.
"""

from collections.abc import Iterator

import numpy as np
import torch

from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.preconditioning import ComponentPreconditioner, Preconditioner
from gradsim_assets.core.sample_gradients.several_devices import gathered

#: Tensors of the size of the gradients at hand that stand side by side while P is applied.
APPLIED_AT_ONCE = 4


class PlacedPreconditioner:
    """A preconditioner on the device of a pass: all of it where it is to be kept, else a component at a time."""

    def __init__(self, preconditioner: Preconditioner, names: list[str], keep: bool) -> None:
        self._preconditioner, self._names, self.keep = preconditioner, names, keep
        self._kept: dict[int, ComponentPreconditioner] = {}

    def of(self, component: int, device: torch.device, dtype: torch.dtype) -> ComponentPreconditioner:
        """W of a component, on the device."""
        found = self._kept.get(component)
        if found is None:
            found = self._preconditioner.of(self._names[component]).to(device, dtype)
            if self.keep:
                self._kept[component] = found
        return found


class PreconditionedProducts:
    """Products under one preconditioner of the gradients that a block holds."""

    def __init__(self, held: HeldGradients, preconditioner: PlacedPreconditioner) -> None:
        self._held, self._layout, self._preconditioner = held, held.layout, preconditioner
        #: Float64 [slots, components], once they were asked for.
        self._selves: np.ndarray | None = None

    def of_pairs(self, streamed: HeldGradients, slots: np.ndarray, streamed_slots: np.ndarray) -> np.ndarray:
        """Float64 [pairs, 3, components]: products of held slots with streamed ones, pair by pair, and of each with itself."""
        if self._selves is None:
            self._selves = self._self_products()
        dots, selves = self._products(streamed, slots, streamed_slots)
        return np.stack([dots, self._selves[slots], selves[streamed_slots]], 1)

    def _self_products(self) -> np.ndarray:
        found = []
        for component in range(len(self._layout.shapes)):
            w = self._of(component)
            squares = [
                self._whitened(w, self._held, component, part)[1] for part in self._chunks(component, self._held.count)
            ]
            found.append(torch.cat(squares))
        return gathered(found).cpu().numpy()

    def _products(
        self, streamed: HeldGradients, slots: np.ndarray, streamed_slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Float64 [pairs, components], and self products [streamed slots, components]."""
        order = np.argsort(streamed_slots, kind="stable")
        mine, theirs = slots[order], streamed_slots[order]
        dots, selves = [], []
        for component in range(len(self._layout.shapes)):
            w, squares, products = self._of(component), [], []
            for part in self._chunks(component, streamed.count):
                whitened, own = self._whitened(w, streamed, component, part)
                squares.append(own)
                chosen = slice(*np.searchsorted(theirs, [part.start, part.stop]))
                if chosen.stop > chosen.start:
                    applied = self._padded(w.unwhiten(whitened))
                    del whitened
                    products.append(self._with_held(component, applied, mine[chosen], theirs[chosen] - part.start))
            selves.append(torch.cat(squares))
            dots.append(torch.cat(products))
        out = np.empty((len(slots), len(dots)))
        out[order] = gathered(dots).cpu().numpy()
        return out, gathered(selves).cpu().numpy()

    def _of(self, component: int) -> ComponentPreconditioner:
        return self._preconditioner.of(component, self._layout.devices[component], self._layout.dtype)

    def _chunks(self, component: int, count: int) -> Iterator[slice]:
        """Slots that are worked on at a time."""
        size = self._layout.shapes[component].numel() * self._layout.dtype.itemsize
        step = max(1, self._layout.profile.work_bytes // (APPLIED_AT_ONCE * size))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def _whitened(
        self, w: ComponentPreconditioner, gradients: HeldGradients, component: int, slots: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """W g of some slots [k, *shape], and its squared lengths [k] in float64."""
        whitened = w.whiten(gradients.formed_rows(component, range(slots.start, slots.stop)))
        return whitened, inner_products.squares(whitened.reshape(len(whitened), -1))

    def _padded(self, gradients: torch.Tensor) -> torch.Tensor:
        """Rows of gradients [k, *shape], with zeros up to whole pieces."""
        rows = gradients.reshape(len(gradients), -1)
        return torch.nn.functional.pad(rows, (0, inner_products.whole_pieces(rows.shape[1]) - rows.shape[1]))

    def _with_held(self, component: int, applied: torch.Tensor, slots: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        """Float64 [pairs] on the device: held slots with rows of P g [k, n filled up], pair by pair."""
        rows = self._held.padded_rows(component)
        if rows is not None:
            return self._of_pairs(rows, applied, slots, columns)
        found = torch.empty(len(slots), dtype=torch.float64, device=applied.device)
        wanted = np.unique(slots)
        for part in self._chunks(component, len(wanted)):
            formed = self._padded(self._held.formed_rows(component, wanted[part]))
            chosen = np.flatnonzero(np.isin(slots, wanted[part]))
            places = np.searchsorted(wanted[part], slots[chosen])
            found[torch.from_numpy(chosen).to(found.device)] = self._of_pairs(formed, applied, places, columns[chosen])
        return found

    def _of_pairs(
        self, ones: torch.Tensor, others: torch.Tensor, rows: np.ndarray, columns: np.ndarray
    ) -> torch.Tensor:
        advantage = self._layout.profile.grid_advantage
        found, cells = inner_products.of_pairs(ones[:, None], others[:, None], rows, columns, advantage)
        return found[0].index_select(0, torch.from_numpy(cells).to(found.device))
