"""Which variants are held together: blocks that fit the memory and stream as few originals as possible.

Every block streams the originals that its variants are compared with, so the number of backward passes is the number
of variants plus the sum over blocks of the originals in them. Finding the least is a hypergraph partition, which is
hard; growing blocks greedily and then moving and swapping units until nothing helps comes close in a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

#: Blocks tried for each unit in a sweep of moves and swaps, and the most sweeps.
NEIGHBOURS, SWEEPS = 8, 6


@dataclass(frozen=True)
class Unit:
    """Variants that go together: bytes they take when held, originals they meet (numbers), longest sample of all."""

    weight: float
    originals: np.ndarray
    longest: int


@dataclass(frozen=True)
class Room:
    """Bytes that a block may take, and bytes to work in by the longest sample of the block."""

    memory: float
    working: Callable[[int], float]

    def fits(self, units: Sequence[Unit]) -> bool:
        """Whether these can be one block."""
        longest = max(unit.longest for unit in units)
        return sum(unit.weight for unit in units) + self.working(longest) <= self.memory


def make_blocks(units: Sequence[Unit], room: Room, improve: bool = True) -> list[list[int]]:
    """Blocks of unit numbers; the same for the same input in every process. Each unit must fit alone."""
    if not units:
        return []
    if room.fits(units):
        return [list(range(len(units)))]
    blocks = _grow(units, room)
    return _Improver(units, room, blocks).blocks() if improve else blocks


def _grow(units: Sequence[Unit], room: Room) -> list[list[int]]:
    users: dict[int, list[int]] = {}
    for number, unit in enumerate(units):
        for original in unit.originals.tolist():
            users.setdefault(original, []).append(number)
    left = np.ones(len(units), bool)
    blocks = []
    while left.any():
        blocks.append(_grow_one(units, room, users, left))
    return blocks


def _grow_one(units: Sequence[Unit], room: Room, users: dict[int, list[int]], left: np.ndarray) -> list[int]:
    """One block, taken out of `left`: always the unit that adds fewest new originals."""
    full = np.asarray([len(unit.originals) for unit in units], float)
    weight = np.asarray([unit.weight for unit in units])
    longest = np.asarray([unit.longest for unit in units])
    working = np.vectorize(room.working, otypes=[float])
    new = full.copy()
    block: list[int] = []
    covered: set[int] = set()
    held, current = 0.0, 0
    while True:
        lengths, back = np.unique(np.maximum(longest, current), return_inverse=True)
        fits = left & (held + weight + working(lengths)[back] <= room.memory)
        if not fits.any():
            return block
        # Among equals the one with most candidates already there, then the first.
        number = int(np.where(fits, new - 1e-3 * (full - new), np.inf).argmin())
        block.append(number)
        left[number] = False
        held, current = held + weight[number], max(current, int(longest[number]))
        for original in set(units[number].originals.tolist()) - covered:
            covered.add(original)
            new[users[original]] -= 1


class _Improver:
    """Moves units between blocks, and swaps them, as long as that saves originals."""

    def __init__(self, units: Sequence[Unit], room: Room, blocks: list[list[int]]) -> None:
        self._units, self._room = units, room
        self._blocks = [list(block) for block in blocks]
        self._home = np.empty(len(units), int)
        originals = max((int(unit.originals.max()) for unit in units if len(unit.originals)), default=0) + 1
        self._count = np.zeros((len(blocks), originals), np.int32)  # units of a block that meet an original
        for number, block in enumerate(blocks):
            for unit in block:
                self._home[unit] = number
                self._count[number, units[unit].originals] += 1

    def blocks(self) -> list[list[int]]:
        """The improved blocks."""
        for _ in range(SWEEPS):
            if not sum(self._improve(unit) for unit in range(len(self._units))):
                break
        return [block for block in self._blocks if block]

    def _fits(self, block: int, without: int | None, also: int) -> bool:
        kept = [self._units[unit] for unit in self._blocks[block] if unit != without]
        return self._room.fits([*kept, self._units[also]])

    def _improve(self, unit: int) -> bool:
        home, mine = int(self._home[unit]), self._units[unit].originals
        self._count[home, mine] -= 1
        saved = int((self._count[home, mine] == 0).sum())
        added = (self._count[:, mine] == 0).sum(1)
        best: tuple[int, int, int | None] = (0, home, None)
        for block in np.argsort(added, kind="stable")[:NEIGHBOURS].tolist():
            if block != home:
                best = min(best, self._best_place(unit, home, block, int(added[block]) - saved), key=lambda x: x[0])
        self._count[home, mine] += 1
        if best[0] >= 0:
            return False
        self._move(unit, best[1])
        if best[2] is not None:
            self._move(best[2], home)
        return True

    def _best_place(self, unit: int, home: int, block: int, cost: int) -> tuple[int, int, int | None]:
        """(change in originals, block, unit that goes the other way) of the best way into `block`."""
        mine = self._units[unit].originals
        best: tuple[int, int, int | None] = (0, block, None)
        if cost < 0 and self._fits(block, None, unit):
            best = (cost, block, None)
        self._count[block, mine] += 1
        for other in self._blocks[block]:
            theirs = self._units[other].originals
            change = cost - int((self._count[block, theirs] == 1).sum()) + int((self._count[home, theirs] == 0).sum())
            if change < best[0] and self._fits(block, other, unit) and self._fits(home, unit, other):
                best = (change, block, other)
        self._count[block, mine] -= 1
        return best

    def _move(self, unit: int, block: int) -> None:
        home, mine = int(self._home[unit]), self._units[unit].originals
        self._blocks[home].remove(unit)
        self._count[home, mine] -= 1
        self._blocks[block].append(unit)
        self._count[block, mine] += 1
        self._home[unit] = block
