"""The memory model: bytes that a pass takes beside the model, in one choice of what is held as factors."""

from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph
from gradsim_assets.core.gradients.projections import projected_dimension

#: Tensors of the logits' size that stand side by side at the peak: the logits, their softmax, and what is made of it.
LOGITS_AT_ONCE = 3

#: Tensors [S, S'] that a product of two samples' factors holds at once: both grams and their elementwise product.
GRAMS_AT_ONCE = 3

#: The loss takes logits in fp32 at least.
LOGIT_BYTES = 4


class MemoryModel:
    """Sizes of what a pass holds where `factored` components are held as factors and the others formed."""

    def __init__(self, shape: ModelShape, graph: PassGraph, factored: frozenset[int]) -> None:
        self.shape, self.graph, self.factored = shape, graph, factored
        #: Numbers of one gradient's formed components.
        self.formed_numbers = sum(c.size for number, c in enumerate(shape.components) if number not in factored)
        #: Numbers of one gradient's projections.
        self.projected_numbers = sum(
            projected_dimension(component.size, p) for p in graph.proportions for component in shape.components
        )
        #: Numbers that factors take for every token, and those of the head for every labelled token.
        self.numbers_per_token = 0
        self.numbers_per_labelled_token = 0
        self._count_factors()

    def _count_factors(self) -> None:
        counted: set[int] = set()  # inputs that several layers share are held once
        for number in sorted(self.factored):
            for factors in self.shape.components[number].factors:
                numbers = factors.left + (0 if factors.group in counted else factors.right)
                counted.add(factors.group)
                if factors.labelled:
                    self.numbers_per_labelled_token += numbers
                else:
                    self.numbers_per_token += numbers

    def held_bytes(self, lengths: Lengths) -> int:
        """Bytes of one held gradient."""
        tokens, labelled = lengths
        numbers = (self.formed_numbers + self.projected_numbers) * self.shape.number_bytes
        factors = self.numbers_per_token * tokens + self.numbers_per_labelled_token * labelled
        return numbers + factors * self.shape.activation_number_bytes

    def most_held_bytes(self, tokens: int) -> int:
        """Bytes of one held gradient of a sample of so many tokens, all of them labelled."""
        return self.held_bytes((tokens, tokens))

    def working_bytes(self, tile: int, batch_tokens: int, longest: int | None = None) -> int:
        """Bytes of a tile of originals and of one batch on its way through the model.

        `longest` is the number of tokens of the longest sample, that of the whole graph if not given.
        """
        longest = self.graph.longest if longest is None else longest
        tokens = max(longest, batch_tokens)
        logit_bytes = max(LOGIT_BYTES, self.shape.activation_number_bytes)
        logits = LOGITS_AT_ONCE * self.shape.vocabulary * tokens * logit_bytes
        # Factors of one component at a time are formed to be projected.
        formed = max((self.shape.components[n].size for n in self.factored), default=0) if self.projected_numbers else 0
        grams = GRAMS_AT_ONCE * longest**2 if self.factored else 0
        passing = self.shape.activations(tokens, longest) + logits
        return int(tile * self.most_held_bytes(longest) + passing + (formed + grams) * self.shape.number_bytes)

    def least_bytes(self) -> int:
        """Bytes for one variant and one original at a time, whichever they are."""
        variants = [lengths for of_setting in self.graph.variants.values() for lengths in of_setting.values()]
        return self.working_bytes(1, 0) + max(map(self.held_bytes, variants), default=0)
