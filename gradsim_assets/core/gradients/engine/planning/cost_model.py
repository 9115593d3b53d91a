"""The cost model: FLOP and bytes of a pass, and how long they take on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.preconditioned_products import APPLIED_AT_ONCE
from gradsim_assets.core.sample_gradients.preconditioning import basis_widths

#: A multiplication and an addition.
FLOP_PER_MULTIPLY_ADD = 2

#: Multiply-adds for every matrix parameter and token: one forward, one backward for the input's gradient. That of the
#: weight is not formed, since weights are frozen.
PRODUCTS_PER_PARAMETER = 2

#: The share of a pass that its forward half is: what computing activations again costs.
FORWARD_SHARE = 1 / 2

#: Formed gradients that a product of two reads.
READS_PER_PAIR = 2

#: Results of a pair and component: three products in float64.
RESULT_BYTES = 3 * 8


@dataclass(frozen=True)
class Work:
    """What a pass has to do; a multiplication and an addition count as two FLOP."""

    #: FLOP of forward and backward passes, and batches that they go in.
    pass_flop: float
    batches: int
    #: FLOP of forming gradients of their factors.
    forming_flop: float
    #: FLOP of products of pairs, and of gradients with themselves, that are held as factors.
    product_flop: float
    #: Bytes that products of formed gradients read.
    read_bytes: float
    #: Bytes of gradients that go to the host's memory, or come from there.
    host_bytes: float = 0

    def seconds(self, profile: DeviceProfile, flop_per_token: float) -> float:
        """Expected time on a device."""
        overhead = self.batches * profile.batch_overhead_tokens * flop_per_token
        products = (self.forming_flop + self.product_flop) / profile.product_rate
        transfers = self.host_bytes / profile.host_bytes_per_second if profile.host_bytes_per_second else 0
        reading = self.read_bytes / profile.bytes_per_second
        return (self.pass_flop + overhead) / profile.pass_rate + products + reading + transfers


def flop_per_token(memory: MemoryModel) -> float:
    """FLOP of one token's way through the model and back."""
    shape = memory.shape
    return float(FLOP_PER_MULTIPLY_ADD * (PRODUCTS_PER_PARAMETER * shape.matrix_parameters + shape.other_products))


def _pass_flop(memory: MemoryModel, passing: Sequence[Lengths]) -> float:
    """FLOP of the forward and backward passes of samples."""
    beyond = memory.checkpoint_beyond
    again = 0 if beyond is None else sum(length for length, _ in passing if length > beyond)
    return (sum(length for length, _ in passing) + FORWARD_SHARE * again) * flop_per_token(memory)


def _forming_flop_per_token(memory: MemoryModel) -> float:
    """FLOP of forming those gradients that are formed, for a token."""
    projecting, components = memory.projected_numbers > 0, enumerate(memory.shape.components)
    formed = sum(one.size for number, one in components if projecting or number not in memory.factored)
    return float(FLOP_PER_MULTIPLY_ADD * formed)


def computing_seconds(memory: MemoryModel, lengths: Lengths) -> float:
    """Expected time for the gradient of one sample, in a batch of its own."""
    alone = Work(_pass_flop(memory, [lengths]), 1, lengths[0] * _forming_flop_per_token(memory), 0, 0)
    return alone.seconds(memory.profile, flop_per_token(memory))


def work_of_pass(
    memory: MemoryModel, passing: list[Lengths], distinct: list[Lengths], batches: int, host_bytes: float = 0
) -> Work:
    """The work of a pass through whose blocks samples of the lengths `passing` go, in so many batches.

    `distinct` are the samples whose self products are taken: each of them once.
    """
    shape, graph = memory.shape, memory.graph
    tokens = sum(length for length, _ in passing)
    # Self products of factors are taken like those of pairs, unless the gradient is formed anyway to be projected.
    own = 0.0 if memory.projected_numbers else float(sum(length * length for length, _ in distinct))
    numbers = memory.numbers_per_token + memory.numbers_per_labelled_token
    pairs = sum(map(len, graph.pairs.values()))
    forming, reading = preconditioning(memory, tokens, len(passing))
    return Work(
        pass_flop=_pass_flop(memory, passing),
        batches=batches,
        forming_flop=tokens * _forming_flop_per_token(memory) + forming,
        product_flop=FLOP_PER_MULTIPLY_ADD * numbers * (_token_pairs(graph) + own),
        read_bytes=float(
            READS_PER_PAIR * pairs * (memory.formed_numbers + memory.projected_numbers) * shape.number_bytes
        )
        + reading,
        host_bytes=host_bytes,
    )


def preconditioning(memory: MemoryModel, tokens: int, samples: int) -> tuple[float, float]:
    """FLOP and bytes read of preconditioning the gradients of samples that have so many tokens together.

    What is held as factors is formed for every pair; bases turn a gradient once, and back where it is streamed.
    """
    shape, graph = memory.shape, memory.graph
    flop = read = 0.0
    for kind in graph.preconditioners:
        settings = [s for s in graph.pairs if kind in graph.preconditioned.get(s, ())]
        formed = tokens + sum(graph.variants[s][variant][0] for s in settings for variant, _ in graph.pairs[s])
        for number, component in enumerate(shape.components):
            if number in memory.factored:
                flop += FLOP_PER_MULTIPLY_ADD * formed * component.size
            flop += 2 * FLOP_PER_MULTIPLY_ADD * samples * component.size * sum(basis_widths(kind, component.shape))
            read += APPLIED_AT_ONCE * samples * component.size * shape.number_bytes
    return flop, read


def _token_pairs(graph: PassGraph) -> float:
    """Pairs of a variant's token with an original's, over all pairs of samples."""
    own = [graph.variants[s][variant][0] for s in graph.pairs for variant, _ in graph.pairs[s]]
    other = [graph.originals[original][0] for s in graph.pairs for _, original in graph.pairs[s]]
    return float(np.dot(np.asarray(own, float), np.asarray(other, float)))
