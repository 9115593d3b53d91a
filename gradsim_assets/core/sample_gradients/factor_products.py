"""Products of gradients that are held as factors, for all layers that are alike, and for many pairs, at once.

For one pair the rows of a sample are views of its store. For many short ones, where calling operations would take
longer than copying, the rows of all are gathered side by side, with rows of zeros up to the longest.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.factor_stacks import FactorStacks, LeftStack, Place, RightStack
from gradsim_assets.core.sample_gradients.factor_store import KINDS, FactorStore
from gradsim_assets.core.sample_gradients.factors import batched_products, left_products

#: Operations for a stack's products of right factors and for those of each of its left factors, for one place that
#: crosses another, and for every pair or gathering beside.
OPERATIONS_PER_RIGHT, OPERATIONS_PER_LEFT, OPERATIONS_PER_CROSSING, OPERATIONS_BESIDE = 1, 4, 6, 4


class FactorProducts:
    """Products of samples in one store with samples in another (or the same)."""

    def __init__(self, stacks: FactorStacks, profile: DeviceProfile, dtype: torch.dtype) -> None:
        self._stacks, self._profile, self._dtype = stacks, profile, dtype
        #: The component of each row of what `of_pairs` returns: summands stand in rows of their own.
        self.components = [
            *(c for stack in stacks.stacks for left in stack.lefts for c in left.components),
            *(component for component, _, _ in stacks.crossing),
        ]

    def of_pairs(
        self, one: FactorStore, other: FactorStore, slots: np.ndarray, others: np.ndarray
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Float64 [rows as in `components`, pairs] on the device: slots of one store with slots of the other.

        Pairs stand in the order of the int64 [pairs] that comes with it.
        """
        found, order = [], []
        for chosen in self._chunks(one, other, slots, others):
            first = _Operand(one, slots[chosen])
            second = first if one is other and slots is others else _Operand(other, others[chosen])
            for number in range(len(self._stacks.stacks)):
                found += [part.flatten() for part in self._of_stack(number, first, second)]
            found += [self._crossing(a, b, first, second) for _, a, b in self._stacks.crossing]
            order.append(chosen)
        counts = [len(chosen) for chosen in order]
        values = torch.cat(found).split([len(self.components) * count for count in counts])
        return torch.cat([part.view(-1, n) for part, n in zip(values, counts, strict=True)], 1), np.concatenate(order)

    # Which pairs are taken together.

    def _chunks(
        self, one: FactorStore, other: FactorStore, slots: np.ndarray, others: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Places of pairs that are taken together, of similar length."""
        sizes = [np.stack([one.sizes[kind][slots], other.sizes[kind][others]], 1) for kind in KINDS]
        order = np.lexsort((sizes[0][:, 1], sizes[0][:, 0]))
        start = 0
        while start < len(order):
            end = start + 1
            if self._is_worth_gathering(*(kind[order[start]] for kind in sizes)):
                while end < len(order) and self._fits(sizes, order[start : end + 1]):
                    end += 1
            yield order[start:end]
            start = end

    def _fits(self, sizes: list[np.ndarray], pairs: np.ndarray) -> bool:
        """Whether these pairs are each worth gathering, and fit the work space together."""
        longest = [kind[pairs].max(0) for kind in sizes]
        last = [kind[pairs[-1]] for kind in sizes]
        together = len(pairs) * self._bytes_at_once(*longest)
        return together <= self._profile.work_bytes and self._is_worth_gathering(*last)

    def _is_worth_gathering(self, tokens: np.ndarray, labelled: np.ndarray) -> bool:
        """Whether copying a pair's factors takes less time than calling the operations for it alone."""
        copied = 2 * sum(
            _bytes_of(stack, int((labelled if stack.labelled else tokens).sum())) for stack in self._stacks.stacks
        )
        return copied / self._profile.bytes_per_second < self._operations * self._profile.launch_seconds

    @property
    def _operations(self) -> int:
        stacks = self._stacks.stacks
        return (
            OPERATIONS_PER_RIGHT * len(stacks)
            + OPERATIONS_PER_LEFT * sum(len(stack.lefts) for stack in stacks)
            + OPERATIONS_PER_CROSSING * len(self._stacks.crossing)
            + OPERATIONS_BESIDE
        )

    def _bytes_at_once(self, tokens: np.ndarray, labelled: np.ndarray) -> int:
        """Bytes that one gathered pair of these sizes takes: factors, and their products, of one stack."""
        most = 0
        for stack in self._stacks.stacks:
            rows = labelled if stack.labelled else tokens
            products = sum(1 + len(left.components) / stack.count for left in stack.lefts) * stack.count
            most = max(
                most, _bytes_of(stack, int(rows.sum())) + int(products * rows[0] * rows[1]) * self._dtype.itemsize
            )
        return max(1, most)

    # The products of pairs that are taken together.

    def _of_stack(self, number: int, one: "_Operand", other: "_Operand") -> list[torch.Tensor]:
        """For each left stack float64 [G * r, P]."""
        stack = self._stacks.stacks[number]
        rights = one.right(number), other.right(number)
        lefts = [(one.left(number, n), other.left(number, n)) for n in range(len(stack.lefts))]
        own = [one is other and self._is_worth_forming(stack, left, one.rows(stack)) for left in stack.lefts]
        values = [
            torch.empty(len(left.components), one.count, dtype=torch.float64, device=rights[0].device)
            for left in stack.lefts
        ]
        step = self._layers_at_once(stack, one, other)
        for start in range(0, stack.count, step):
            part = slice(start, min(start + step, stack.count))
            right = None if all(own) else batched_products(_flat(rights[0][part]), _flat(rights[1][part]), self._dtype)
            for out, left, (mine, theirs), form in zip(values, stack.lefts, lefts, own, strict=True):
                layers = slice(part.start * left.per_right, part.stop * left.per_right)
                if form:
                    out[layers] = self._formed_squares(left, mine[layers], rights[0][part])
                elif right is not None:
                    product = left_products(_flat(mine[layers]), _flat(theirs[layers]), self._dtype)
                    shape = (-1, left.per_right, one.count, *right.shape[1:])
                    product.view(shape).mul_(right.view(-1, 1, *shape[2:]))
                    out[layers] = _sums(product).view(-1, one.count)
        return values

    def _layers_at_once(self, stack: RightStack, one: "_Operand", other: "_Operand") -> int:
        """Layers whose products of token vectors fit the work space: one at least."""
        most = max(left.per_right for left in stack.lefts)
        each = (1 + most) * one.count * one.rows(stack) * other.rows(stack) * self._dtype.itemsize
        return max(1, min(stack.count, self._profile.work_bytes // max(1, each)))

    def _is_worth_forming(self, stack: RightStack, left: LeftStack, rows: int) -> bool:
        """Whether a gradient's length is sooner found by forming it: then the sample's length counts once, not squared."""
        numbers = left.width * stack.width
        if left.width == 0 or numbers * self._dtype.itemsize > self._profile.work_bytes:
            return False
        ghost = 2 * rows * rows * (left.width + stack.width / left.per_right) / self._profile.product_rate
        passes_over_it = 3  # written once, and read twice to be summed up
        formed = 2 * rows * numbers / self._profile.product_rate
        return formed + passes_over_it * numbers * self._dtype.itemsize / self._profile.bytes_per_second < ghost

    def _formed_squares(self, left: LeftStack, lefts: torch.Tensor, rights: torch.Tensor) -> torch.Tensor:
        """Float64 [layers, P]: squared lengths of gradients, formed a few at a time."""
        step = max(1, self._profile.work_bytes // (left.width * rights.shape[3] * self._dtype.itemsize))
        found = torch.empty(len(lefts), rights.shape[1], dtype=torch.float64, device=rights.device)
        for reader in range(left.per_right):
            pieces = zip(_flat(lefts[reader :: left.per_right]).split(step), _flat(rights).split(step), strict=True)
            squares = [inner_products.squares(batched_products(a.mT, b.mT, self._dtype).flatten(1)) for a, b in pieces]
            found[reader :: left.per_right] = torch.cat(squares).view(-1, rights.shape[1])
        return found

    def _crossing(self, mine: Place, theirs: Place, one: "_Operand", other: "_Operand") -> torch.Tensor:
        """Float64 [P]: a summand of one's gradients with another summand of the other's."""
        left = left_products(_flat(one.left_at(mine)), _flat(other.left_at(theirs)), self._dtype)
        right = batched_products(_flat(one.right_at(mine)), _flat(other.right_at(theirs)), self._dtype)
        return _sums(left.mul_(right))


@dataclass(frozen=True)
class _Rows:
    """Rows of some samples, of one kind."""

    #: Of each sample, zeros included.
    longest: int
    #: int64 [P * longest], or where one sample's rows are.
    index: torch.Tensor | slice


class _Operand:
    """P samples of a store whose factors are multiplied with those of as many others."""

    def __init__(self, store: FactorStore, slots: np.ndarray) -> None:
        self.count = len(slots)
        self._store = store
        self._rows = {kind: self._find(kind, slots) for kind in KINDS}

    def _find(self, kind: bool, slots: np.ndarray) -> _Rows:
        starts, sizes = self._store.starts[kind][slots], self._store.sizes[kind][slots]
        longest = int(sizes.max())
        if len(slots) == 1:
            return _Rows(longest, slice(int(starts[0]), int(starts[0]) + longest))
        places = np.arange(longest)
        zeros = self._store.zero_row(kind)
        index = torch.from_numpy(np.where(places < sizes[:, None], starts[:, None] + places, zeros).ravel())
        if self._store.device.type == "cuda":
            index = index.pin_memory()
        return _Rows(longest, index.to(self._store.device, non_blocking=True))

    def rows(self, stack: RightStack) -> int:
        """Rows of each sample."""
        return self._rows[stack.labelled].longest

    def _taken(self, tensor: torch.Tensor, labelled: bool) -> torch.Tensor:
        """[layers, P, rows, ...] of [layers, all rows, ...]."""
        rows = self._rows[labelled]
        if isinstance(rows.index, slice):
            return tensor[:, None, rows.index]
        return tensor.index_select(1, rows.index).unflatten(1, (self.count, rows.longest))

    def right(self, stack: int) -> torch.Tensor:
        """Right factors of a stack [G, P, rows, I]."""
        return self._taken(self._store.rights[stack], self._store.stacks.stacks[stack].labelled)

    def left(self, stack: int, number: int) -> torch.Tensor:
        """Left factors of a stack [G * r, P, rows, O], or int64 [1, P, rows]."""
        return self._taken(self._store.lefts[stack][number], self._store.stacks.stacks[stack].labelled)

    def right_at(self, place: Place) -> torch.Tensor:
        """The right factors of one place [1, P, rows, I]."""
        part = self._store.rights[place.stack][place.right : place.right + 1]
        return self._taken(part, self._store.stacks.stacks[place.stack].labelled)

    def left_at(self, place: Place) -> torch.Tensor:
        """The left factors of one place, as those of a stack."""
        part = self._store.lefts[place.stack][place.left_stack][place.left : place.left + 1]
        return self._taken(part, self._store.stacks.stacks[place.stack].labelled)


def _bytes_of(stack: RightStack, rows: int) -> int:
    """Bytes of a stack's factors for so many rows."""
    numbers = stack.width * stack.count + sum(left.width * len(left.components) for left in stack.lefts)
    return 4 * numbers * rows


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """[layers * P, ...] of [layers, P, ...]."""
    return tensor.flatten(0, 1)


def _sums(products: torch.Tensor) -> torch.Tensor:
    """Float64 [K]: sums over [K, S, S'], in fp32 along a row of S' and in float64 across rows."""
    return products.sum(2).sum(1, dtype=torch.float64)
