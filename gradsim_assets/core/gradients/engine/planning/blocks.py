"""Which variants are held together: blocks that fit the memory and stream as few originals as possible.

Every block streams the originals that its variants are compared with, so the number of backward passes is the number
of variants plus the sum over blocks of the originals in them. Finding the least is a hypergraph partition, which is
hard. Growing blocks greedily, and then moving and swapping groups of variants until nothing helps, comes close in a
second.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

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
        #: By block: the originals that its groups meet, each with the number of these groups. Blocks meet few of all
        #: originals, so that a table of all would be far larger.
        self._met: list[Counter[int]] = [Counter() for _ in blocks]
        #: By original.
        self._blocks_meeting: defaultdict[int, set[int]] = defaultdict(set)
        self._originals = 1 + max((int(group.originals.max()) for group in groups if len(group.originals)), default=-1)
        for number, block in enumerate(blocks):
            for group in block:
                self._home[group] = number
                self._count(group, number, 1)

    def _count(self, group: int, block: int, change: int) -> None:
        """Notes that a group has come to a block (1), or has left it (-1)."""
        met = self._met[block]
        for original in self._groups[group].originals.tolist():
            met[original] += change
            if met[original]:
                self._blocks_meeting[original].add(block)
            else:
                del met[original]
                self._blocks_meeting[original].discard(block)

    def _groups_meeting(self, block: int) -> np.ndarray:
        """Int [originals]: groups of a block that meet each."""
        counts = np.zeros(self._originals, int)
        counts[list(self._met[block])] = list(self._met[block].values())
        return counts

    def _nearest(self, originals: np.ndarray) -> list[tuple[int, int]]:
        """Blocks that lack fewest of some originals, and how many each lacks."""
        shared = Counter(block for original in originals.tolist() for block in self._blocks_meeting[original])
        nearest = sorted(shared, key=lambda block: (-shared[block], block))[:NEIGHBOURS]
        others = (block for block in range(len(self._blocks)) if block not in shared)
        nearest += islice(others, NEIGHBOURS - len(nearest))
        return [(block, len(originals) - shared[block]) for block in nearest]

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
        self._count(group, home, -1)
        saved = sum(original not in self._met[home] for original in mine.tolist())
        best = _Move(0, home)
        for block, added in self._nearest(mine):
            if block != home:
                found = self._best_move(group, home, block, added - saved)
                best = min(best, found, key=lambda move: move.change)
        self._count(group, home, 1)
        if best.change >= 0:
            return False
        self._carry(group, best.block)
        if best.in_return is not None:
            self._carry(best.in_return, home)
        return True

    def _best_move(self, group: int, home: int, block: int, change: int) -> _Move:
        """The best way into `block`, alone (which changes the number of originals by `change`) or in exchange."""
        best = _Move(0, block)
        if change < 0 and self._fits(block, None, group):
            best = _Move(change, block)
        others = self._blocks[block]
        if not others:
            return best
        theirs = np.concatenate([self._groups[other].originals for other in others])
        owner = np.repeat(np.arange(len(others)), [len(self._groups[other].originals) for other in others])
        self._count(group, block, 1)
        left = np.bincount(owner, self._groups_meeting(block)[theirs] == 1, len(others))
        came = np.bincount(owner, self._groups_meeting(home)[theirs] == 0, len(others))
        self._count(group, block, -1)
        exchanged = change - left + came
        for place in np.argsort(exchanged, kind="stable").tolist():
            if exchanged[place] >= best.change:
                break
            if self._fits(block, others[place], group) and self._fits(home, group, others[place]):
                return _Move(int(exchanged[place]), block, others[place])
        return best

    def _carry(self, group: int, block: int) -> None:
        home = int(self._home[group])
        self._blocks[home].remove(group)
        self._count(group, home, -1)
        self._blocks[block].append(group)
        self._count(group, block, 1)
        self._home[group] = block
