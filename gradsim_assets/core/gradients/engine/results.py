"""Results of a pass: arrays in memory, or memory-mapped files that may be larger than it and survive the process."""

import numpy as np

from gradsim_assets.core.gradients.engine.request import PairBlock, PassRequest
from gradsim_assets.core.gradients.engine.scratch import Scratch

#: The products of a pair, as a table names them.
TERMS = ("dot_product", "variant_self", "original_self")


class Results:
    """Rows in the order of `request.pairs`; what was not put yet is NaN, or 0 in files."""

    def __init__(self, request: PassRequest, components: int, scratch: Scratch | None) -> None:
        self._scratch = scratch
        pairs = {setting: len(request.pairs[setting]) for setting in request.settings}
        #: By setting, then term: float64 [pairs, components].
        self.products = {
            s: {term: self._array(f"{s}-{term}", (pairs[s], components)) for term in TERMS}
            for s in request.settings
            if s in request.products
        }
        #: By setting, then preconditioner and term: float64 [pairs, components].
        self.preconditioned = {
            s: {
                name: {term: self._array(f"{s}-{name}-{term}", (pairs[s], components)) for term in TERMS}
                for name in request.preconditioned[s]
            }
            for s in request.settings
            if request.preconditioned.get(s)
        }
        #: By setting, then proportion: float64 [pairs, terms].
        self.projected = {
            s: {p: self._array(f"{s}-projected-{p!r}", (pairs[s], len(TERMS))) for p in request.projections[s]}
            for s in request.settings
            if request.projections.get(s)
        }

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if self._scratch is None or 0 in shape:  # nothing cannot be mapped
            return np.full(shape, np.nan)
        return self._scratch.array(name, shape)

    def put(self, block: PairBlock) -> None:
        """Keeps finished rows; those of a block that is begun anew take the place of what is there."""
        if block.setting in self.products:
            for term, values in zip(TERMS, (block.dot_products, block.variant_self, block.original_self), strict=True):
                self.products[block.setting][term][block.rows] = values
        for name, products in block.preconditioned.items():
            for number, term in enumerate(TERMS):
                self.preconditioned[block.setting][name][term][block.rows] = products[:, number]
        for proportion, values in block.projected.items():
            self.projected[block.setting][proportion][block.rows] = values

    def of(self, term: str) -> dict[str, np.ndarray]:
        """One of `TERMS` by setting."""
        return {setting: arrays[term] for setting, arrays in self.products.items()}

    def row(self, setting: str, row: int, preconditioner: str | None = None) -> np.ndarray:
        """Float64 [terms, components]: the products of one pair."""
        found = self.preconditioned[setting][preconditioner] if preconditioner else self.products[setting]
        return np.stack([found[term][row] for term in TERMS])

    def flush(self) -> None:
        """Brings everything to the disk."""
        products = [*self.products.values(), *(p for named in self.preconditioned.values() for p in named.values())]
        arrays = [array for terms in products for array in terms.values()]
        arrays += [array for proportions in self.projected.values() for array in proportions.values()]
        for array in arrays:
            if isinstance(array, np.memmap):
                array.flush()
