"""The memory model: bytes that a pass takes beside the model, in one choice of what is held as factors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gradsim_assets.core.gradients.engine.planning.model_shape import ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.inner_products import whole_pieces
from gradsim_assets.core.sample_gradients.layout import Room, padded
from gradsim_assets.core.sample_gradients.padded_batch import LOSS_BYTES, BatchShape
from gradsim_assets.core.sample_gradients.preconditioned_products import APPLIED_AT_ONCE
from gradsim_assets.core.sample_gradients.preconditioning import numbers_of
from gradsim_assets.core.sample_gradients.projections import projected_dimension

#: Tensors of the logits' size that stand side by side at the peak: the logits and their gradient.
LOGITS_AT_ONCE = 2

#: Tensors that stand beside them for as many tokens as the loss is made of at a time: scores, softmax, the gradient.
SCORES_AT_ONCE = 3

#: Tensors of a formed component's size that stand side by side while it is projected.
PROJECTED_AT_ONCE = 3

#: Token ids that stand for one-hot factors.
ID_BYTES = 8


@dataclass(eq=False)
class MemoryModel:
    """Sizes of what a pass holds where `factored` components are held as factors and the others formed.

    Batches of more padded tokens than `checkpoint_beyond` have activations computed again; None: no batch.
    """

    shape: ModelShape
    graph: PassGraph
    factored: frozenset[int]
    profile: DeviceProfile
    keeps_preconditioners: bool = True
    checkpoint_beyond: int | None = None

    def __post_init__(self) -> None:
        shape = self.shape
        #: Numbers of one gradient's formed components.
        self.formed_numbers = sum(
            whole_pieces(c.size) for number, c in enumerate(shape.components) if number not in self.factored
        )
        #: Numbers of one gradient's projections.
        self.projected_numbers = sum(
            projected_dimension(component.size, p) for p in self.graph.proportions for component in shape.components
        )
        #: Numbers that factors take for every token, and those of the head for every labelled token.
        self.numbers_per_token = 0
        self.numbers_per_labelled_token = 0
        #: Products of left factors that meet one product of right factors.
        self.readers = 0
        self._count_factors()

    def _count_factors(self) -> None:
        counted: set[int] = set()  # inputs that several layers share are held once
        readers: Counter[tuple[int, int]] = Counter()
        for number in sorted(self.factored):
            for factors in self.shape.components[number].factors:
                ids = ID_BYTES // self.shape.activation_number_bytes if factors.left == 0 else 0
                numbers = factors.left + ids + (0 if factors.group in counted else factors.right)
                counted.add(factors.group)
                readers[factors.group, factors.left] += 1
                if factors.labelled:
                    self.numbers_per_labelled_token += numbers
                else:
                    self.numbers_per_token += numbers
        self.readers = max(readers.values(), default=0)

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        graph: PassGraph,
        factored: frozenset[int],
        profile: DeviceProfile,
        keeps_preconditioners: bool = True,
        checkpoint_beyond: int | None = None,
    ) -> "MemoryModel":
        """The sizes on one device, or those on the fullest of several that the model is spread over."""
        made = SpreadMemoryModel if shape.devices else cls
        return made(shape, graph, factored, profile, keeps_preconditioners, checkpoint_beyond)

    @property
    def sample_bytes(self) -> int:
        """Bytes that a held gradient takes whatever its length."""
        return (self.formed_numbers + self.projected_numbers) * self.shape.number_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes that a held gradient takes for every token, labelled as it may be."""
        return (self.numbers_per_token + self.numbers_per_labelled_token) * self.shape.activation_number_bytes

    def stored_bytes(self, lengths: Lengths) -> int:
        """Bytes of one held gradient, wherever it is held."""
        return self.held_bytes(lengths)

    def held_bytes(self, lengths: Lengths) -> int:
        """Bytes of one held gradient."""
        return self.room_bytes([[lengths]])

    def most_held_bytes(self, tokens: int) -> int:
        """Bytes of one held gradient of a sample of so many tokens, all of them labelled."""
        return self.held_bytes((tokens, tokens))

    def room_bytes(self, batches: Sequence[Sequence[Lengths]]) -> int:
        """Bytes of the held gradients of samples that go through in these batches."""
        shapes = [BatchShape(*zip(*batch, strict=True)) for batch in batches]
        room = Room.of(shapes, self.profile.row_multiple)
        factors = self.numbers_per_token * room.rows + self.numbers_per_labelled_token * room.labelled_rows
        return self.sample_bytes * room.samples + factors * self.shape.activation_number_bytes

    def passing_bytes(self, tokens: int, longest: int, labelled: int) -> int:
        """Bytes of a batch on its way through the model; `tokens` and `labelled` of them are padded."""
        logits = self.shape.vocabulary * labelled
        scores = min(logits * self.shape.number_bytes, LOSS_BYTES)
        held = LOGITS_AT_ONCE * logits * self.shape.activation_number_bytes + self.shape.dequantised_bytes
        checkpointed, beyond = self.shape.checkpointed, self.checkpoint_beyond
        if checkpointed is None or beyond is None or tokens <= beyond:
            return int(self.shape.activations.bytes(tokens, longest) + held + SCORES_AT_ONCE * scores)
        block = checkpointed.block.bytes(tokens, longest)
        return int(checkpointed.between.bytes(tokens, longest) + held + max(block, SCORES_AT_ONCE * scores))

    def most_passing_bytes(self, tokens: int, longest: int) -> int:
        """The most bytes of any batch of up to so many padded tokens, all of them labelled."""
        sizes = {tokens, min(tokens, self.checkpoint_beyond or 0)}
        return max(self.passing_bytes(size, min(size, longest), size) for size in sizes)

    @property
    def kept_bytes(self) -> int:
        """Bytes of preconditioners that stay on the device."""
        return preconditioner_bytes(self.shape, self.graph) if self.keeps_preconditioners else 0

    def _applying_bytes(self) -> int:
        """Bytes of what is made of a component while a preconditioner is applied to it."""
        most = 0
        for kind in self.graph.preconditioners:
            for component in self.shape.components:
                own = 0 if self.keeps_preconditioners else numbers_of(kind, component.shape)
                # What P is applied to, and held gradients that are formed to meet it.
                at_once = 2 * max(self.profile.work_bytes, APPLIED_AT_ONCE * component.size * self.shape.number_bytes)
                most = max(most, own * self.shape.number_bytes + at_once)
        return most

    def product_bytes(self, longest: int) -> int:
        """Bytes of what products are made of: grams of token vectors, and gradients that are formed to be projected or
        preconditioned."""
        return max(self._plain_product_bytes(longest), self._applying_bytes())

    def _plain_product_bytes(self, longest: int) -> int:
        grams = 0
        if self.factored:
            one_layer = (1 + self.readers) * padded(longest, self.profile.row_multiple) ** 2 * self.shape.number_bytes
            grams = max(one_layer, self.profile.work_bytes)
        if not self.projected_numbers:
            return grams
        largest = max((self.shape.components[n].size for n in self.factored), default=0) * self.shape.number_bytes
        return max(grams, PROJECTED_AT_ONCE * max(largest, self.profile.work_bytes if self.factored else 0))

    def working_bytes(self, tile: int, tile_tokens: int, batch_tokens: int, longest: int | None = None) -> int:
        """The most bytes of a tile of originals and of one batch on its way through the model, or of their products.

        `longest` is the number of tokens of the longest sample, that of the whole graph if not given.
        """
        longest = self.graph.longest if longest is None else longest
        tokens = max(longest, batch_tokens)
        rows = max(longest, min(tile * longest, tile_tokens))
        streamed = tile * self.sample_bytes + self.token_bytes * padded(rows, self.profile.row_multiple)
        most = max(self.most_passing_bytes(tokens, longest), self.product_bytes(longest))
        return streamed + most + self.kept_bytes

    def needs(
        self,
        held: Sequence[Sequence[Lengths]],
        computed: Sequence[Sequence[Sequence[Lengths]]],
        fetched: Sequence[Sequence[Sequence[Lengths]]],
        longest: int,
    ) -> tuple[int, int]:
        """Bytes that a block holds, and those that it works in: batches of variants, and tiles of batches of originals.

        Those that are `fetched` do not go through the model. `longest` is the number of tokens of the longest sample of all.
        """
        passing = [
            self.passing_bytes(len(batch) * batch[0][0], batch[0][0], len(batch) * max(n for _, n in batch))
            for batch in [*held, *(batch for tile in computed for batch in tile)]
        ]
        tile = max(map(self.room_bytes, [*computed, *fetched]))
        at_once = max(*passing, self.product_bytes(longest))
        return self.room_bytes(held), tile + at_once + self.kept_bytes

    def least_bytes(self) -> int:
        """Bytes for one variant and one original at a time, whichever they are."""
        variants = [lengths for of_setting in self.graph.variants.values() for lengths in of_setting.values()]
        return self.working_bytes(1, 0, 0) + max(map(self.held_bytes, variants), default=0)


class SpreadMemoryModel(MemoryModel):
    """As `MemoryModel`, of a model on several devices: every size is that of the device which takes most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        alike = (self.profile, self.keeps_preconditioners, self.checkpoint_beyond)
        self._parts = []
        for part, numbers in self.shape.on_each():
            own = frozenset(place for place, number in enumerate(numbers) if number in self.factored)
            self._parts.append(MemoryModel(part, self.graph, own, *alike))

    @property
    def sample_bytes(self) -> int:
        return max(part.sample_bytes for part in self._parts)

    @property
    def token_bytes(self) -> int:
        return max(part.token_bytes for part in self._parts)

    def stored_bytes(self, lengths: Lengths) -> int:
        return sum(part.stored_bytes(lengths) for part in self._parts)

    def room_bytes(self, batches: Sequence[Sequence[Lengths]]) -> int:
        return max(part.room_bytes(batches) for part in self._parts)

    def passing_bytes(self, tokens: int, longest: int, labelled: int) -> int:
        return max(part.passing_bytes(tokens, longest, labelled) for part in self._parts)

    @property
    def kept_bytes(self) -> int:
        return max(part.kept_bytes for part in self._parts)

    def product_bytes(self, longest: int) -> int:
        return max(part.product_bytes(longest) for part in self._parts)

    def working_bytes(self, tile: int, tile_tokens: int, batch_tokens: int, longest: int | None = None) -> int:
        return max(part.working_bytes(tile, tile_tokens, batch_tokens, longest) for part in self._parts)

    def needs(
        self,
        held: Sequence[Sequence[Lengths]],
        computed: Sequence[Sequence[Sequence[Lengths]]],
        fetched: Sequence[Sequence[Sequence[Lengths]]],
        longest: int,
    ) -> tuple[int, int]:
        return max((part.needs(held, computed, fetched, longest) for part in self._parts), key=sum)

    def least_bytes(self) -> int:
        return max(part.least_bytes() for part in self._parts)


def most_preconditioner_bytes(shape: ModelShape, graph: PassGraph) -> int:
    """Bytes of the preconditioners on the device that has most of them."""
    return max(preconditioner_bytes(part, graph) for part, _ in shape.on_each())


def preconditioner_bytes(shape: ModelShape, graph: PassGraph) -> int:
    """Bytes of all preconditioners of a pass."""
    kinds, components = graph.preconditioners, shape.components
    return shape.number_bytes * sum(numbers_of(kind, component.shape) for kind in kinds for component in components)
