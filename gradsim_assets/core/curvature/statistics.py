"""What gradients of a batch add to the statistics of curvature: covariances of sides, and second moments."""

from collections.abc import Mapping, Set

import torch

from gradsim_assets.core.curvature.component_curvature import Bases, bases_of
from gradsim_assets.core.sample_gradients.factor_stacks import stackable_calls
from gradsim_assets.core.sample_gradients.factor_store import IrregularError
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.layers import ParameterUse, UnbatchableError
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.preconditioning import rotated

#: Blocks of columns that the product of a matrix with itself is made of, of which half are mirrored; and what is worth it.
_GRAM_BLOCKS, _GRAM_WIDTH = 4, 512

#: Products of factors that are kept, for layers that read the same input come one behind the other.
_KEPT_PRODUCTS = 2

#: Bases (left, right) by component; None for a side without one.
BasesByComponent = Mapping[int, tuple[torch.Tensor | None, torch.Tensor | None]]


class Statistic:
    """Sums over samples, in float64, of some components; a `Sink` for one batch at a time between `begin` and `finish`."""

    def __init__(self, hooks: GradientHooks, components: Set[int]) -> None:
        self.components = components
        #: Samples that have gone through.
        self.samples = 0
        self._hooks = hooks
        self._batch: BatchShape | None = None
        #: Gradients [B, *shape] of components that have several summands, as far as they have come.
        self._pending: dict[int, torch.Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of gradients, and of what is made of the sums."""
        return self._hooks.dtype

    def begin(self, batch: BatchShape) -> None:
        """This batch is about to come, in the place of one that was not finished."""
        self._batch, self._pending = batch, {}

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors (see `Sink`)."""
        component = use.components["weight"]
        if component in self.components:
            factors.add_to(self._pending_of(component), fresh=False)

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes a formed summand (see `Sink`)."""
        if component in self.components:
            self._pending_of(component).add_(gradients)

    def finish(self) -> None:
        """The batch is through: what came of it counts."""
        assert self._batch is not None
        for component, gradients in self._pending.items():
            self._add(component, gradients)
        self.samples += self._batch.samples
        self._pending = {}

    def _pending_of(self, component: int) -> torch.Tensor:
        if component not in self._pending:
            self._pending[component] = self._zeros(component)
        return self._pending[component]

    def _zeros(self, component: int, samples: int | None = None) -> torch.Tensor:
        assert self._batch is not None
        count = self._batch.samples if samples is None else samples
        shape = (count, *self._hooks.shapes[component])
        return torch.zeros(shape, dtype=self._hooks.dtype, device=self._hooks.parameters[component].device)

    def _add(self, component: int, gradients: torch.Tensor) -> None:
        """Counts gradients [B, *shape]."""
        raise NotImplementedError


class SecondMoments(Statistic):
    """Sums of squares of per-sample gradients, number by number, in bases or in that of the parameters."""

    def __init__(self, hooks: GradientHooks, components: Set[int], bases: BasesByComponent, work_bytes: int) -> None:
        super().__init__(hooks, components)
        #: Float64, of the components' shapes.
        self.sums = {
            c: torch.zeros(hooks.shapes[c], dtype=torch.float64, device=hooks.parameters[c].device) for c in components
        }
        self._bases, self._work_bytes = bases, work_bytes
        calls = [call.component for call in stackable_calls(hooks)]
        #: Components whose one summand is all of their gradient, so that it counts as it comes.
        self._whole = {component for component in components if calls.count(component) == 1}
        self._came = set[int]()
        #: What whole components of the batch at hand add, which counts when it is through.
        self._added: dict[int, torch.Tensor] = {}

    def begin(self, batch: BatchShape) -> None:
        """As the base class has it."""
        super().begin(batch)
        self._came, self._added = set(), {}

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors.

        Raises:
            IrregularError: a layer is called more often than when the model was looked at.
        """
        component = use.components["weight"]
        if component not in self._whole:
            super().factors(use, factors)
            return
        if component in self._came:
            raise IrregularError(component)
        self._came.add(component)
        size = self._hooks.parameters[component].numel() * self._hooks.dtype.itemsize
        step, count = max(1, self._work_bytes // size), len(factors.right)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            gradients = self._zeros(component, part.stop - part.start)
            Factors(factors.left[part], factors.right[part]).add_to(gradients, fresh=True)
            self._add(component, gradients)

    def finish(self) -> None:
        """As the base class has it."""
        super().finish()
        for component, squares in self._added.items():
            self.sums[component] += squares
        self._added = {}

    def _add(self, component: int, gradients: torch.Tensor) -> None:
        squares = rotated(gradients, *self._bases.get(component, (None, None))).square().sum(0)
        if component in self._added:
            self._added[component] += squares
        else:
            self._added[component] = squares


class Covariances(Statistic):
    """Sums of x x^T over the rows x of both sides of matrices: over tokens, or over the rows and columns of gradients."""

    def __init__(self, hooks: GradientHooks, components: Set[int]) -> None:
        super().__init__(hooks, components)
        self.bases: dict[int, Bases] = {c: bases for c, bases in enumerate(bases_of(hooks)) if c in components}
        #: Float64 [..., W, W] by component and side (0 for rows, 1 for columns), of the sides that are to have a basis.
        self.sums = {
            (c, side): torch.zeros(
                (*hooks.shapes[c][:-2], width, width), dtype=torch.float64, device=hooks.parameters[c].device
            )
            for c in components
            for side, width in enumerate((self.bases[c].left, self.bases[c].right))
            if width is not None
        }
        #: Tokens that each component has seen.
        self.tokens = dict.fromkeys(components, 0)
        self._counted: dict[int, int] = {}
        #: What the batch at hand adds, by component and side.
        self._added: dict[tuple[int, int], torch.Tensor] = {}
        #: The last products, each with the rows that it was made of, which keeps their memory from being taken by others.
        self._products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self, batch: BatchShape) -> None:
        """As the base class has it."""
        super().begin(batch)
        self._counted, self._added, self._products = {}, {}, []

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors.

        Raises:
            UnbatchableError: which rows are padding cannot be told.
        """
        component = use.components["weight"]
        if component not in self.components or self.bases[component].kind not in ("tokens", "embedding"):
            super().factors(use, factors)
            return
        counts = self._counts(use, factors.right.shape[1])
        for side, rows in enumerate((factors.left, factors.right)):
            if (component, side) in self.sums:
                self._put((component, side), self._product(rows, counts))
        self._counted[component] = self._counted.get(component, 0) + sum(counts)

    def finish(self) -> None:
        """As the base class has it."""
        super().finish()
        for place, product in self._added.items():
            self.sums[place] += product
        for component, count in self._counted.items():
            self.tokens[component] += count
        self._added, self._products = {}, []

    def _counts(self, use: ParameterUse, rows: int) -> tuple[int, ...]:
        """How many of each sample's rows are none that fill up."""
        assert self._batch is not None
        counts = self._batch.labelled if use.labelled else self._batch.lengths
        if self._batch.samples == 1:  # whatever rows there are, they are this sample's
            return (rows,)
        if rows != max(counts):
            raise UnbatchableError
        return counts

    def _product(self, rows: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
        """[W, W]: x x^T summed over the rows x of [B, R, W] that count."""
        for known, product in self._products:
            if known.data_ptr() == rows.data_ptr() and known.shape == rows.shape and known.stride() == rows.stride():
                return product
        if len(set(counts)) > 1:
            flat = torch.cat([own[:count] for own, count in zip(rows, counts, strict=True)])
        else:
            flat = rows[:, : counts[0]].flatten(0, 1)
        product = gram(flat.to(self._hooks.dtype))
        self._products = [*self._products[1 - _KEPT_PRODUCTS :], (rows, product)]
        return product

    def _add(self, component: int, gradients: torch.Tensor) -> None:
        for side, ones in enumerate((gradients, gradients.mT)):
            if (component, side) in self.sums:
                self._put((component, side), (ones @ ones.mT).sum(0))

    def _put(self, place: tuple[int, int], product: torch.Tensor) -> None:
        # Not in place: layers that read the same input share the product.
        self._added[place] = self._added[place] + product if place in self._added else product


def gram(rows: torch.Tensor) -> torch.Tensor:
    """x x^T summed over the rows x of [N, W]: [W, W]."""
    width = rows.shape[1]
    if width < _GRAM_WIDTH:
        return rows.T @ rows
    out = torch.empty(width, width, dtype=rows.dtype, device=rows.device)
    blocks = [slice(int(b[0]), int(b[-1]) + 1) for b in torch.arange(width).chunk(_GRAM_BLOCKS)]
    for number, block in enumerate(blocks):
        upto = slice(0, block.stop)
        out[block, upto] = rows[:, block].T @ rows[:, upto]
        for other in blocks[:number]:
            out[other, block] = out[block, other].T
    return out
