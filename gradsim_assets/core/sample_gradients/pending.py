"""Results that are still being computed by the device, and wait there to be fetched."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Pending:
    """Summands of rows [places, columns]; fetching them waits for the device."""

    #: Float64 [summands, cells] on the device.
    values: torch.Tensor
    #: int64 [places]: the cell that each place takes.
    cells: np.ndarray
    #: int64 [places]: the row that each is.
    places: np.ndarray
    #: int64 [summands]: the column that each adds to.
    columns: np.ndarray
    #: Number of columns.
    width: int

    def fetch(self) -> np.ndarray:
        """Float64 [places, columns]."""
        sums = np.zeros((self.width, len(self.cells)))
        np.add.at(sums, self.columns, self.values.cpu().numpy()[:, self.cells])
        return sums.T
