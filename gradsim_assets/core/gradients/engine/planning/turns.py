"""Components in turn: where the gradients of one pair do not fit beside the model, those of some components may."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradsim_assets.core.gradients.engine.planning.model_shape import ComponentShape, ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import Plan, TooLittleMemoryError, plan_pass
from gradsim_assets.core.gradients.engine.request import PassOptions


@dataclass(frozen=True)
class Turn:
    """A pass over some of the components."""

    #: Their numbers, side by side in model order: the backward pass goes no further than to the first of them.
    components: range
    plan: Plan


def plan_turns(
    shape: ModelShape, graph: PassGraph, memory_bytes: int, options: PassOptions | None = None
) -> list[Turn]:
    """One turn over all components where they fit, else as many as take least time.

    Raises:
        TooLittleMemoryError: not even the largest component of one pair fits.
    """
    number = len(shape.components)
    try:
        return [Turn(range(number), plan_pass(shape, graph, memory_bytes, options))]
    except TooLittleMemoryError:
        return plan_several_turns(shape, graph, memory_bytes, options)


def plan_several_turns(
    shape: ModelShape, graph: PassGraph, memory_bytes: int, options: PassOptions | None = None
) -> list[Turn]:
    """As `plan_turns`, of at least two turns."""
    best: list[Turn] = []
    refused: TooLittleMemoryError | None = None
    for parts in _partitions(shape, graph.longest):
        try:
            turns = [Turn(part, plan_pass(shape.only(part), graph, memory_bytes, options)) for part in parts]
        except TooLittleMemoryError as error:
            refused = error
            continue
        if best and _seconds(turns) >= _seconds(best):
            break
        best = turns
    if not best:
        raise refused or TooLittleMemoryError(
            f"the gradients of {shape.components[0].name} alone, of one pair of samples, do not fit beside the model; use a "
            "device with more memory, or shorten the longest samples."
        )
    return best


def describe_turns(turns: Sequence[Turn]) -> str:
    """One paragraph for `gradsim plan`."""
    if len(turns) == 1:
        return turns[0].plan.describe()
    described = (f"turn {number}: {turn.plan.describe()}" for number, turn in enumerate(turns, 1))
    return f"{why_turns(len(turns))}; {' '.join(described)}"


def why_turns(count: int) -> str:
    """What the log, the metadata and `gradsim plan` say of several turns."""
    return f"memory does not suffice for all components at a time, so that they are done in {count} turns"


def _seconds(turns: Sequence[Turn]) -> float:
    return sum(turn.plan.expected_seconds for turn in turns)


def _partitions(shape: ModelShape, longest: int) -> Iterator[list[range]]:
    """Ways of cutting the components up into two parts and more, each of about the same size when held."""
    sizes = [_held_numbers(component, longest) for component in shape.components]
    most = 1
    for parts in range(2, len(sizes) + 1):
        cut = _cut(sizes, sum(sizes) / parts)
        if len(cut) > most:
            most = len(cut)
            yield cut


def _held_numbers(component: ComponentShape, tokens: int) -> int:
    """Numbers of one gradient in its smaller form."""
    factors = sum(one.left + one.right for one in component.factors) * tokens
    return min(component.size, factors) if component.factors else component.size


def _cut(sizes: Sequence[int], most: float) -> list[range]:
    """Runs of neighbours that are together no larger than `most`, or one of them."""
    runs: list[range] = []
    held = 0.0
    for number, size in enumerate(sizes):
        if runs and held + size <= most:
            runs[-1] = range(runs[-1].start, number + 1)
            held += size
        else:
            runs.append(range(number, number + 1))
            held = size
    return runs
