"""The cost model: FLOP of a pass, and how long they take."""

from dataclasses import dataclass

import numpy as np

from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph

#: A multiplication and an addition.
FLOP_PER_MULTIPLY_ADD = 2

#: Multiply-adds for every matrix parameter and token: one forward, one backward for the input's gradient. That of the
#: weight is not formed, since weights are frozen.
PRODUCTS_PER_PARAMETER = 2

#: FLOP that a device does while it reads one number from memory: products of formed gradients only read.
FLOP_PER_READ = 16

#: Numbers that a product of two formed gradients reads for each of their entries.
READS_PER_ENTRY = 2

#: How much longer a FLOP of a forward or backward pass takes than one of a bare matrix product.
PASS_SLOWNESS = 2

#: Results of a pair and component: three products in float64.
RESULT_BYTES = 3 * 8


@dataclass(frozen=True)
class Flop:
    """FLOP by what they are done for; a multiplication and an addition count two."""

    #: Forward and backward passes.
    passes: float
    #: Forming gradients of their factors.
    forming: float
    #: Products of pairs, and of gradients with themselves.
    pairs: float


def flop_of_pass(memory: MemoryModel, passing: list[Lengths]) -> Flop:
    """FLOP of a pass through whose blocks samples of the lengths `passing` go, variants and originals alike."""
    shape, graph = memory.shape, memory.graph
    tokens = sum(length for length, _ in passing)
    projecting = memory.projected_numbers > 0
    formed = sum(c.size for number, c in enumerate(shape.components) if projecting or number not in memory.factored)
    # Self products of factors are taken like those of pairs, unless the gradient is formed anyway to be projected.
    own = 0.0 if projecting else float(sum(length * length for length, _ in passing))
    numbers = memory.numbers_per_token + memory.numbers_per_labelled_token
    pairs = sum(map(len, graph.pairs.values()))
    rows = memory.formed_numbers + memory.projected_numbers
    return Flop(
        passes=float(FLOP_PER_MULTIPLY_ADD * PRODUCTS_PER_PARAMETER * tokens * shape.matrix_parameters),
        forming=float(FLOP_PER_MULTIPLY_ADD * tokens * formed),
        pairs=FLOP_PER_MULTIPLY_ADD * numbers * (_token_pairs(graph) + own)
        + FLOP_PER_READ * READS_PER_ENTRY * pairs * rows,
    )


def _token_pairs(graph: PassGraph) -> float:
    """Pairs of a variant's token with an original's, over all pairs of samples."""
    own = [graph.variants[s][variant][0] for s in graph.pairs for variant, _ in graph.pairs[s]]
    other = [graph.originals[original][0] for s in graph.pairs for _, original in graph.pairs[s]]
    return float(np.dot(np.asarray(own, float), np.asarray(other, float)))
