"""Which variants are held together: blocks that fit the memory and stream as few originals as possible.

Every block streams the originals that its variants are compared with, so the number of backward passes is the number
of variants plus the sum over blocks of the originals in them. Finding the least is a hypergraph partition, which is
hard. Growing blocks greedily, and then moving and swapping groups of variants until nothing helps, comes close in a
second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

#: Blocks tried for each group in a sweep of moves and swaps, and the most sweeps.
NEIGHBOURS, SWEEPS = 8, 6


@dataclass(frozen=True)
class VariantGroup:
    """Variants that are held together or not at all."""

    #: Bytes that they take when held.
    held_bytes: float
    #: Numbers of the originals that they are compared with.
    originals: np.ndarray
    #: Tokens of the longest sample among them and their originals.
    longest: int


@dataclass(frozen=True)
class MemoryBudget:
    """What a block may take."""

    #: Bytes for held gradients and the work on them.
    memory_bytes: float
    #: Bytes to work in, by the tokens of the block's longest sample.
    working_bytes: Callable[[int], float]

    def fits(self, groups: Sequence[VariantGroup]) -> bool:
        """Whether these can be one block."""
        longest = max(group.longest for group in groups)
        return sum(group.held_bytes for group in groups) + self.working_bytes(longest) <= self.memory_bytes


def make_blocks(groups: Sequence[VariantGroup], budget: MemoryBudget, improve: bool = True) -> list[list[int]]:
    """Blocks of group numbers; the same for the same input in every process. Each group must fit alone."""
    if not groups:
        return []
    if budget.fits(groups):
        return [list(range(len(groups)))]
    blocks = _grow(groups, budget)
    return _Improver(groups, budget, blocks).blocks() if improve else blocks


def _grow(groups: Sequence[VariantGroup], budget: MemoryBudget) -> list[list[int]]:
    users: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for original in group.originals.tolist():
            users.setdefault(original, []).append(number)
    left = np.ones(len(groups), bool)
    blocks = []
    while left.any():
        blocks.append(_grow_one(groups, budget, users, left))
    return blocks


def _grow_one(
    groups: Sequence[VariantGroup], budget: MemoryBudget, users: dict[int, list[int]], left: np.ndarray
) -> list[int]:
    """One block, taken out of `left`: always the group that adds fewest new originals."""
    all_originals = np.asarray([len(group.originals) for group in groups], float)
    group_bytes = np.asarray([group.held_bytes for group in groups])
    longest = np.asarray([group.longest for group in groups])
    working_bytes = np.vectorize(budget.working_bytes, otypes=[float])
    new_originals = all_originals.copy()
    block: list[int] = []
    covered: set[int] = set()
    held, longest_held = 0.0, 0
    while True:
        lengths, back = np.unique(np.maximum(longest, longest_held), return_inverse=True)
        fits = left & (held + group_bytes + working_bytes(lengths)[back] <= budget.memory_bytes)
        if not fits.any():
            return block
        # Among equals the one with most candidates already there, then the first.
        number = int(np.where(fits, new_originals - 1e-3 * (all_originals - new_originals), np.inf).argmin())
        block.append(number)
        left[number] = False
        held, longest_held = held + group_bytes[number], max(longest_held, int(longest[number]))
        for original in set(groups[number].originals.tolist()) - covered:
            covered.add(original)
            new_originals[users[original]] -= 1


@dataclass(frozen=True)
class _Move:
    """A group's way into another block."""

    #: Originals streamed more than before; fewer if negative.
    change: int
    block: int
    #: The group that goes the other way, if any.
    in_return: int | None = None


class _Improver:
    """Moves groups between blocks, and swaps them, as long as that saves originals."""

    def __init__(self, groups: Sequence[VariantGroup], budget: MemoryBudget, blocks: list[list[int]]) -> None:
        self._groups, self._budget = groups, budget
        self._blocks = [list(block) for block in blocks]
        #: The block of each group.
        self._home = np.empty(len(groups), int)
        originals = max((int(group.originals.max()) for group in groups if len(group.originals)), default=0) + 1
        #: [blocks, originals]: groups of a block that meet an original.
        self._count = np.zeros((len(blocks), originals), np.int32)
        for number, block in enumerate(blocks):
            for group in block:
                self._home[group] = number
                self._count[number, groups[group].originals] += 1

    def blocks(self) -> list[list[int]]:
        """The improved blocks."""
        for _ in range(SWEEPS):
            if not sum(self._improve(group) for group in range(len(self._groups))):
                break
        return [block for block in self._blocks if block]

    def _fits(self, block: int, without: int | None, also: int) -> bool:
        kept = [self._groups[group] for group in self._blocks[block] if group != without]
        return self._budget.fits([*kept, self._groups[also]])

    def _improve(self, group: int) -> bool:
        """Carries out a group's best move, if any saves originals."""
        home, mine = int(self._home[group]), self._groups[group].originals
        self._count[home, mine] -= 1
        saved = int((self._count[home, mine] == 0).sum())
        added = (self._count[:, mine] == 0).sum(1)
        best = _Move(0, home)
        for block in np.argsort(added, kind="stable")[:NEIGHBOURS].tolist():
            if block != home:
                found = self._best_move(group, home, block, int(added[block]) - saved)
                best = min(best, found, key=lambda move: move.change)
        self._count[home, mine] += 1
        if best.change >= 0:
            return False
        self._carry(group, best.block)
        if best.in_return is not None:
            self._carry(best.in_return, home)
        return True

    def _best_move(self, group: int, home: int, block: int, change: int) -> _Move:
        """The best way into `block`, alone (which changes the number of originals by `change`) or in exchange."""
        mine = self._groups[group].originals
        best = _Move(0, block)
        if change < 0 and self._fits(block, None, group):
            best = _Move(change, block)
        self._count[block, mine] += 1
        for other in self._blocks[block]:
            theirs = self._groups[other].originals
            left, came = (self._count[block, theirs] == 1).sum(), (self._count[home, theirs] == 0).sum()
            exchanged = change - int(left) + int(came)
            if exchanged < best.change and self._fits(block, other, group) and self._fits(home, group, other):
                best = _Move(exchanged, block, other)
        self._count[block, mine] -= 1
        return best

    def _carry(self, group: int, block: int) -> None:
        home, mine = int(self._home[group]), self._groups[group].originals
        self._blocks[home].remove(group)
        self._count[home, mine] -= 1
        self._blocks[block].append(group)
        self._count[block, mine] += 1
        self._home[group] = block
