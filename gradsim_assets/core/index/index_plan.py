"""What an index of the originals costs, before anything of it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradsim_assets.core.gradients.engine import ModelShape, PassGraph
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.cost_model import FLOP_PER_MULTIPLY_ADD, Work, flop_per_token
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths
from gradsim_assets.core.index.search import LISTS_BEYOND, LISTS_PER_ROOT, TRAINED_ON
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.gradient_sketches import SIDE

#: Numbers of originals that a plan tells of.
SIZES = (10**3, 10**4, 10**5, 10**6)

#: Bytes of a stored number and of one that is worked with, and of an original's id and length.
STORED, WIDE, NAMED = 2, 4, 32

#: How often a factor's number is touched while it is projected: read with its sign, and added to what is read and written.
TOUCHED = 3


@dataclass(frozen=True)
class IndexPlan:
    """The cost of an index of so many originals: seconds of backward passes (one each) and bytes."""

    originals: int
    seconds: float
    #: Of the table.
    disk_bytes: float
    #: Of the sketches while they are searched, with what sorting them into lists takes where there are so many.
    memory_bytes: float


def index_plans(
    shape: ModelShape,
    lengths: Mapping[str, Lengths],
    dimension: int,
    profile: DeviceProfile,
    flop_per_second: float,
    sizes: Sequence[int] = SIZES,
) -> list[IndexPlan]:
    """The cost of indexes of `sizes` originals like those with these tokens, at a rate of matrix products (all else in proportion)."""
    of_these = _work(shape, lengths, profile).seconds(profile, flop_per_token(_memory(shape, lengths, profile)))
    seconds = of_these * profile.product_rate / flop_per_second / len(lengths)
    row = STORED * dimension + NAMED
    return [IndexPlan(size, seconds * size, row * size, row * size + _lists(size, dimension)) for size in sizes]


def _memory(shape: ModelShape, lengths: Mapping[str, Lengths], profile: DeviceProfile) -> MemoryModel:
    return MemoryModel(shape, PassGraph(dict(lengths), {}, {}), shape.factorable, profile)


def _work(shape: ModelShape, lengths: Mapping[str, Lengths], profile: DeviceProfile) -> Work:
    """The work of one pass over samples of these lengths."""
    memory = _memory(shape, lengths, profile)
    falling = sorted((length for length, _ in lengths.values()), reverse=True)
    most = max(profile.batch_tokens) if shape.batchable else 0
    batches = padded_batches(falling, most, profile.batch_overhead_tokens)
    tokens = sum(falling[batch.start] * (batch.stop - batch.start) for batch in batches)
    summands = sum(len(component.factors) for component in shape.components)
    numbers = sum(of.left + of.right for component in shape.components for of in component.factors)
    formed = sum(c.size for number, c in enumerate(shape.components) if number not in memory.factored)
    return Work(
        pass_flop=tokens * flop_per_token(memory),
        batches=len(batches),
        forming_flop=float(FLOP_PER_MULTIPLY_ADD * tokens * (summands * SIDE * SIDE + formed)),
        product_flop=0.0,
        read_bytes=float(TOUCHED * WIDE * (tokens * numbers + len(falling) * formed)),
    )


def _lists(size: int, dimension: int) -> float:
    """Bytes of the sketches that the centres of lists are found by."""
    return WIDE * dimension * TRAINED_ON * LISTS_PER_ROOT * size**0.5 if size > LISTS_BEYOND else 0.0
