"""One step of an optimizer, and what is measured of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["sgd", "adam"]

#: (variant id, original id)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Step:
    """One step of plain SGD, or of Adam from a fresh state, without weight decay."""

    optimizer: Optimizer
    learning_rate: float


#: What one step on a pair's original does to the mean loss of its variant (nats per response token), for every pair whose samples
#: are there.
Measure = Callable[[Sequence[Pair], Step], Mapping[Pair, float]]
