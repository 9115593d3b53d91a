"""Random projections of gradients, of which whole rows are compared."""

import numpy as np
import torch

from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.layout import Layout, LayoutPart, adjacent


class ProjectedGradients:
    """Projections of up to `capacity` gradients at one proportion: the d_c numbers of a device's components side by side."""

    def __init__(self, layout: Layout, part: LayoutPart, proportion: float, capacity: int) -> None:
        self._projectors = layout.projectors[proportion]
        self._grid_advantage = layout.profile.grid_advantage
        columns = adjacent([self._projectors[component].dimension for component in part.components])
        self._columns = dict(zip(part.components, columns, strict=True))
        width = inner_products.whole_pieces(columns[-1].stop)
        #: [capacity, sum of d_c, filled up with zeros to whole pieces], in the layout's dtype
        self.rows = torch.zeros(capacity, width, dtype=layout.dtype, device=part.device)
        #: Squared lengths of the rows, float64 [capacity].
        self.squares = torch.zeros(capacity, dtype=torch.float64, device=part.device)

    def put(self, component: int, slots: slice, gradients: torch.Tensor) -> None:
        """Projects a component's formed gradients [slots, n]."""
        self.rows[slots, self._columns[component]] = self._projectors[component](gradients)

    def measure(self, slots: slice) -> None:
        """Takes the lengths of rows whose components are all there."""
        self.squares[slots] = inner_products.squares(self.rows[slots])

    def places(self, slot: int) -> list[torch.Tensor]:
        """The row of a slot and the square of its length, to be read or written."""
        return [self.rows[slot], self.squares[slot]]

    def products(self, others: "ProjectedGradients", slots: np.ndarray, other_slots: np.ndarray) -> np.ndarray:
        """Float64 [pairs, 3]: products of one's slots with another's, pair by pair, and those of both with themselves."""
        found, cells = inner_products.of_pairs(
            self.rows[:, None], others.rows[:, None], slots, other_slots, self._grid_advantage
        )
        count = found.shape[1]
        fetched = torch.cat([found[0], self.squares, others.squares]).cpu().numpy()  # the device is waited for once
        mine, theirs = fetched[count : count + len(self.squares)], fetched[count + len(self.squares) :]
        return np.stack([fetched[:count][cells], mine[slots], theirs[other_slots]], 1)


def cosines(products: np.ndarray) -> np.ndarray:
    """Float64 [pairs] of products [pairs, 3]; NaN where a gradient has no length."""
    lengths = np.sqrt(products[:, 1] * products[:, 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, products[:, 0] / lengths, np.nan)
