"""Memory for the factors of many samples: one tensor a stack, in which every sample has rows of its own."""

import numpy as np
import torch

from gradsim_assets.core.sample_gradients.factor_stacks import Place, RightStack
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.layout import Layout, LayoutPart, Room, padded
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape

#: Rows of tokens, and rows of labelled tokens.
KINDS = (False, True)


class IrregularError(Exception):
    """A layer was called otherwise than when the model was looked at: how many rows come, and when, is not to be told."""

    def __init__(self, component: int) -> None:
        super().__init__(f"component {component}")
        self.component = component


class FactorStore:
    """The factors of up to `room.samples` samples, stacked as the layout says.

    Every stack is [layers, rows + 1, features]. The last row is zero, for gathering samples of unequal length. A sample
    has as many rows as tokens (or labelled tokens), and zeros up to the next multiple that the device likes.
    """

    def __init__(self, layout: Layout, part: LayoutPart, room: Room) -> None:
        self.stacks = part.stacks
        self._multiple = layout.profile.row_multiple
        self.device, self.factor_dtype = part.device, layout.factor_dtype
        rows = self._rows = {False: room.rows, True: room.labelled_rows}
        #: By stack: [G, rows + 1, I], and for each of its left stacks [G * r, rows + 1, O] or int64 [1, rows + 1].
        self.rights = [self._zeros(stack.count, rows[stack.labelled], stack.width) for stack in self.stacks.stacks]
        self.lefts = [
            [self._zeros(len(left.components), rows[stack.labelled], left.width) for left in stack.lefts]
            for stack in self.stacks.stacks
        ]
        #: By kind of row: each sample's first one, and how many there are, zeros included.
        self.starts = {kind: np.zeros(room.samples, np.int64) for kind in KINDS}
        self.sizes = {kind: np.zeros(room.samples, np.int64) for kind in KINDS}
        #: By kind of row: how many the finished batches take, and how many with the one that is on its way.
        self._finished = dict.fromkeys(KINDS, 0)
        self._used = dict.fromkeys(KINDS, 0)
        self._batch: BatchShape | None = None
        #: In the batch so far: calls of each use, and which use stored each right factor, from which memory.
        self._calls: dict[ParameterUse, int] = {}
        self._stored: dict[tuple[int, int], ParameterUse] = {}
        self._memory: dict[ParameterUse, int] = {}

    def _zeros(self, layers: int, rows: int, width: int) -> torch.Tensor:
        if width == 0:
            return torch.zeros(layers, rows + 1, dtype=torch.int64, device=self.device)
        return torch.zeros(layers, rows + 1, width, dtype=self.factor_dtype, device=self.device)

    def zero_row(self, kind: bool) -> int:
        """The number of the row that is zero everywhere."""
        return self._rows[kind]

    def clear(self) -> None:
        """Forgets all samples."""
        self._finished = dict.fromkeys(KINDS, 0)

    def begin(self, first: int, batch: BatchShape) -> None:
        """The samples from slot `first` on are about to come as this batch, in the place of one that was not finished."""
        self._batch, self._calls, self._stored, self._memory = batch, {}, {}, {}
        for kind in KINDS:
            self._used[kind] = self._finished[kind] + self._reserve(kind, first, batch)
        for number, stack in enumerate(self.stacks.stacks):
            self._clear_padding(number, stack)

    def _reserve(self, kind: bool, first: int, batch: BatchShape) -> int:
        """Gives rows to each sample of the batch; returns how many."""
        longest = padded(batch.labelled_tokens if kind else batch.tokens, self._multiple)
        for sample, rows in enumerate(batch.labelled if kind else batch.lengths):
            self.starts[kind][first + sample] = self._finished[kind] + sample * longest
            self.sizes[kind][first + sample] = padded(rows, self._multiple)
        return longest * batch.samples

    def _clear_padding(self, number: int, stack: RightStack) -> None:
        """Zeros behind the rows that the batch will write; one of the two factors suffices."""
        filled = self._rows_written(stack)
        if self._view(self.rights[number], stack).shape[2] == filled:
            return
        if any(left.width == 0 for left in stack.lefts):
            self._view(self.rights[number], stack)[:, :, filled:] = 0
        for tensor, left in zip(self.lefts[number], stack.lefts, strict=True):
            if left.width:
                self._view(tensor, stack)[:, :, filled:] = 0

    def _rows_written(self, stack: RightStack) -> int:
        assert self._batch is not None
        return self._batch.labelled_tokens if stack.labelled else self._batch.tokens

    def _view(self, tensor: torch.Tensor, stack: RightStack) -> torch.Tensor:
        """The rows of the batch: [layers, B, rows of each, ...]."""
        assert self._batch is not None
        longest = padded(self._rows_written(stack), self._multiple)
        end = self._used[stack.labelled]
        start = end - self._batch.samples * longest
        return tensor[:, start:end].unflatten(1, (self._batch.samples, longest))

    def add(self, use: ParameterUse, factors: Factors) -> None:
        """Stores the factors of one call of a use.

        Raises:
            IrregularError: the layer is called more often, with other rows, or with another input than that of the layers
                that it shares it with, than when the model was looked at.
        """
        call, places = self._calls.get(use, 0), self.stacks.places[use]
        self._calls[use] = call + 1
        if call == len(places):
            raise IrregularError(use.components["weight"])
        place = places[call]
        left = self._written(self.lefts[place.stack][place.left_stack], place.stack)[place.left]
        right = self._written(self.rights[place.stack], place.stack)[place.right]
        if factors.left.shape != left.shape or factors.right.shape != right.shape:
            raise IrregularError(use.components["weight"])
        left.copy_(factors.left)
        known = self._stored.setdefault((place.stack, place.right), use)
        if known is use:
            right.copy_(factors.right)
            self._memory[use] = factors.right.data_ptr()
        elif self._memory[known] != factors.right.data_ptr() and not torch.equal(right, factors.right.to(right.dtype)):
            raise IrregularError(use.components["weight"])

    def _written(self, tensor: torch.Tensor, stack: int) -> torch.Tensor:
        """The rows of the batch without those behind it: [layers, B, T or L, ...]."""
        shape = self.stacks.stacks[stack]
        return self._view(tensor, shape)[:, :, : self._rows_written(shape)]

    def places(self, slot: int) -> list[torch.Tensor]:
        """The rows of a sample in every stack, those of zeros included, to be read or written."""
        found = []
        for number, stack in enumerate(self.stacks.stacks):
            start = int(self.starts[stack.labelled][slot])
            rows = slice(start, start + int(self.sizes[stack.labelled][slot]))
            found += [tensor[:, rows] for tensor in (self.rights[number], *self.lefts[number])]
        return found

    def reserved(self) -> None:
        """The rows that the batch has reserved are taken, whoever has written them."""
        self._finished = dict(self._used)

    def finish(self) -> None:
        """The batch is through: modules that it never came by have a gradient of zero."""
        self.reserved()
        for use, places in self.stacks.places.items():
            for place in places[self._calls.get(use, 0) :]:
                stack = self.stacks.stacks[place.stack]
                if stack.lefts[place.left_stack].width:
                    self._view(self.lefts[place.stack][place.left_stack], stack)[place.left] = 0
                else:
                    self._view(self.rights[place.stack], stack)[place.right] = 0

    def factors(self, place: Place, slots: slice) -> Factors:
        """What is stored at a place for samples that came as one batch, or for one of them."""
        kind = self.stacks.stacks[place.stack].labelled
        start, count = int(self.starts[kind][slots.start]), slots.stop - slots.start
        each = int(self.starts[kind][slots.start + 1]) - start if count > 1 else int(self.sizes[kind][slots.start])
        left, right = self.lefts[place.stack][place.left_stack][place.left], self.rights[place.stack][place.right]
        rows = slice(start, start + count * each)
        return Factors(left[rows].unflatten(0, (count, each)), right[rows].unflatten(0, (count, each)))
