"""Random projections of gradients, of which whole rows are compared."""

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.values import inner_products
from gradsim_assets.core.gradients.engine.values.layout import Layout, adjacent


class ProjectedGradients:
    """Projections of up to `capacity` gradients at one proportion: the components' d_c numbers side by side."""

    def __init__(self, layout: Layout, proportion: float, capacity: int) -> None:
        self._projectors = layout.projectors[proportion]
        self._columns = adjacent([projector.dimension for projector in self._projectors])
        width = self._columns[-1].stop
        #: [capacity, sum of d_c], in the layout's dtype
        self.rows = torch.empty(capacity, width, dtype=layout.dtype, device=layout.device)
        #: Lengths of the rows, float64 [capacity].
        self.lengths = torch.zeros(capacity, dtype=torch.float64, device=layout.device)

    def put(self, component: int, slots: slice, gradients: torch.Tensor) -> None:
        """Projects a component's formed gradients [slots, n]."""
        self.rows[slots, self._columns[component]] = self._projectors[component](gradients)

    def put_zero(self, component: int, slot: int) -> None:
        """The component took no part in the sample."""
        self.rows[slot, self._columns[component]] = 0

    def measure(self, slots: slice) -> None:
        """Takes the lengths of rows whose components are all there."""
        self.lengths[slots] = inner_products.squares(self.rows[slots]).sqrt()

    def cosines(self, others: "ProjectedGradients", slots: np.ndarray, other_slots: np.ndarray) -> np.ndarray:
        """Float64 [pairs]: cosines of one's slots with another's, pair by pair; NaN where one has no length."""
        dots = inner_products.of_pairs(self.rows, others.rows, slots, other_slots).cpu().numpy()
        lengths = self.lengths.cpu().numpy()[slots] * others.lengths.cpu().numpy()[other_slots]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(lengths > 0, dots / lengths, np.nan)
