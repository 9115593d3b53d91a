"""What every position of a sample adds to its gradient, component by component.

The gradient of a matrix is sum_t left_t right_t^T over the positions t of a sample, that of a norm's weight or of a bias a
sum of vectors, so that a gradient decomposes over positions exactly, at the cost of the pass that brings up the factors
(Grosse et al. 2023, "Studying Large Language Model Generalization with Influence Functions", section 5.3, tokenwise
influences). A position's share is what the weights were used for there: mostly to predict the token behind it, and
through attention all that come later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.sample_gradients.factor_stacks import stackable_calls
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch


@dataclass(frozen=True)
class Rows:
    """Summands of one sample's gradient in one component, R of them: left_r right_r^T, or right_r alone for vectors."""

    #: Dense [R, O]; int64 [R]: token ids that stand for one-hot rows; None for vectors.
    left: torch.Tensor | None
    #: Dense [R, I]
    right: torch.Tensor
    #: int64 [R]: the positions of the summands; None where summand r is that of position r.
    positions: torch.Tensor | None = None


#: The summands of one sample by the number of the component.
SampleRows = Mapping[int, Sequence[Rows]]


class PositionRows:
    """A `Sink` that keeps the summands of every sample of a batch, between `begin` and `finish`."""

    def __init__(self, hooks: GradientHooks) -> None:
        self._hooks = hooks
        self._batch: PaddedBatch | None = None
        self._samples: list[dict[int, list[Rows]]] = []
        #: Components whose layers take one row for every token.
        self._regular = {call.component for call in stackable_calls(hooks)}
        bias = None if hooks.head is None else hooks.head.bias
        #: The head's bias, whose rows are those of the labelled tokens; None where there is none.
        self._head_bias = next((number for number, one in enumerate(hooks.parameters) if one is bias), None)
        #: By component the axis of its rows that is that of the positions, where it was told once.
        self._axes: dict[int, int] = {}

    def begin(self, batch: PaddedBatch) -> None:
        """This batch is about to come, in the place of one that was not finished."""
        self._batch, self._samples = batch, [{} for _ in range(batch.shape.samples)]

    def finish(self) -> list[SampleRows]:
        """The batch is through: the summands of its samples."""
        samples, self._samples = self._samples, []
        return list(samples)

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors (see `Sink`).

        Raises:
            InputError: the layer does not take one row for every token.
        """
        component = use.components["weight"]
        if component not in self._regular:
            raise self._indivisible(component)
        self._add(component, factors.left, factors.right, labelled=use.labelled and self._hooks.head is not None)

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes a formed summand (see `Sink`).

        Raises:
            InputError: it is not known to be a sum over positions.
        """
        if rows is None:
            if gradients.any():
                raise self._indivisible(component)
        elif rows.dim() > 3:
            self._add(component, None, rows.movedim(self._axis(component, rows), 1).flatten(2, -2).sum(2))
        else:
            self._add(component, None, rows, labelled=component == self._head_bias)

    @property
    def _of_batch(self) -> PaddedBatch:
        assert self._batch is not None
        return self._batch

    def _add(self, component: int, left: torch.Tensor | None, right: torch.Tensor, labelled: bool = False) -> None:
        """Cuts summands [B, R, ..] up by samples; those of `labelled` tokens alone stand at the positions that predict them."""
        batch = self._of_batch
        counts = batch.shape.labelled if labelled else batch.shape.lengths
        if right.shape[1] != max(counts):
            raise self._indivisible(component)
        predicting = batch.predicting.view(batch.shape.samples, -1)
        for number, count in enumerate(counts):
            positions = predicting[number, :count] - number * batch.shape.tokens if labelled else None
            own = Rows(None if left is None else left[number, :count], right[number, :count], positions)
            self._samples[number].setdefault(component, []).append(own)

    def _axis(self, component: int, rows: torch.Tensor) -> int:
        """Which axis of [B, .., F] is that of the positions: a norm over heads has that of the heads before or behind it."""
        tokens = self._of_batch.shape.tokens
        found = [axis for axis in range(1, rows.dim() - 1) if rows.shape[axis] == tokens]
        if len(found) == 1:
            self._axes[component] = found[0]
        if component not in self._axes or self._axes[component] not in found:
            raise self._indivisible(component)
        return self._axes[component]

    def _indivisible(self, component: int) -> InputError:
        return InputError(
            f"the gradient of {self._hooks.names[component]} cannot be told by token: its layer is none that takes one row for "
            "every token (experts see some tokens only); leave it out by `components` under [[models]], or do without tokens."
        )
