"""A model cut into pieces that must stay whole, and which of several devices each piece is on.

A model is its layers (the blocks that transformers would checkpoint) in a row, with what comes before them and what comes behind.
Devices take neighbouring pieces each, so that a sample's activations cross from one to the next once on the way forward, and once
on the way back.
"""

from collections.abc import Iterator, Sequence

from torch import nn

from gradsim_assets.core.sample_gradients.activation_checkpointing import outermost_blocks


class UnspreadableError(Exception):
    """A model that cannot be cut into pieces; the message says why."""


#: A part of a model, under its name in it.
Named = tuple[str, nn.Module]


def pieces_of(model: nn.Module) -> list[list[Named]]:
    """The modules of every piece: what comes before the blocks, each block, what comes behind them.

    What is behind the blocks and shares a weight with what is before them (a tied head) stands with that in the first piece, and
    so does all that has no weights.

    Raises:
        UnspreadableError: there are no blocks, weights stand outside of modules that could be moved, or blocks share weights.
    """
    blocks = outermost_blocks(model)
    if not blocks:
        raise UnspreadableError("it has no layers that are known to stay whole")
    numbers = {id(block): number for number, block in enumerate(blocks, 1)}
    pieces: list[list[Named]] = [[] for _ in range(len(blocks) + 2)]
    passed = 0
    for name, module in _outermost(model, numbers):
        number = numbers.get(id(module))
        if number is not None:
            passed = number
            pieces[number].append((name, module))
        elif not passed or not any(True for _ in module.parameters()) or _shares(module, pieces[0]):
            pieces[0].append((name, module))
        else:
            pieces[-1].append((name, module))
    owners: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        for parameter in _parameters(piece):
            if owners.setdefault(id(parameter), number) != number:
                raise UnspreadableError("some of its layers share their weights")
    return pieces


def _outermost(model: nn.Module, blocks: dict[int, int], prefix: str = "") -> Iterator[Named]:
    """Blocks, and modules beside them that hold none, in the order of the model."""
    for own, _ in model.named_parameters(recurse=False):
        raise UnspreadableError(f"its weight {prefix}{own} stands beside its layers, in no module of its own")
    for name, module in model.named_children():
        whole = f"{prefix}{name}"
        if id(module) in blocks or not any(id(inner) in blocks for inner in module.modules()):
            yield whole, module
        else:
            yield from _outermost(module, blocks, f"{whole}.")


def _shares(module: nn.Module, piece: Sequence[Named]) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    return any(id(parameter) in own for parameter in _parameters(piece))


def _parameters(piece: Sequence[Named]) -> Iterator[nn.Parameter]:
    """Weights of a piece, each once."""
    seen = {id(parameter): parameter for _, module in piece for parameter in module.parameters()}
    yield from seen.values()


def bytes_of(piece: Sequence[Named]) -> int:
    """Bytes of the weights of a piece."""
    return sum(parameter.numel() * parameter.element_size() for parameter in _parameters(piece))


def balanced(sizes: Sequence[int], devices: int) -> list[int]:
    """The device of every piece, given their bytes: neighbours together, such that the fullest device has least.

    Every device has a block; where there are fewer blocks than devices, some devices have nothing.
    """
    devices = max(1, min(devices, len(sizes) - 2))
    sums = [0]
    for size in sizes:
        sums.append(sums[-1] + size)
    # What comes before the blocks goes with the first of them, and what comes behind with the last.
    ends = [0, *range(2, len(sizes) - 1), len(sizes)]
    #: For the first n ends: the bytes of the fullest device, the sum of squares, and where each device begins.
    best: list[tuple[int, int, list[int]]] = [(0, 0, [])] + [(sums[end], sums[end] ** 2, [0]) for end in ends[1:]]
    for _ in range(1, devices):
        longer: list[tuple[int, int, list[int]]] = []
        for last, end in enumerate(ends):
            found = (
                (max(most, part := sums[end] - sums[ends[cut]]), squares + part**2, [*begins, ends[cut]])
                for cut, (most, squares, begins) in enumerate(best[:last])
                if begins
            )
            longer.append(min(found, default=(0, 0, [])))
        best = longer
    begins = best[-1][2]
    return [sum(begin <= piece for begin in begins) - 1 for piece in range(len(sizes))]
