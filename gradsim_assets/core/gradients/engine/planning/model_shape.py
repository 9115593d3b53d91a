"""What a pass costs per token, read off a model: sizes of factors, who shares an input, memory of activations."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from gradsim_assets.core.sample_gradients.factor_stacks import stackable_calls
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.pieces import Named, UnspreadableError, balanced, bytes_of, pieces_of
from gradsim_assets.core.sample_gradients.precision import wide
from gradsim_assets.core.sample_gradients.quantised_linear import QuantisedLinear, quantised_layers

#: Tokens of the shortest of three passes that activations are measured in; any context has three times as many.
SHORT = 10


@dataclass(frozen=True)
class FactorShape:
    """One factored summand of a gradient: numbers that it takes per token."""

    #: Of its left factor; 0 for token ids.
    left: int
    #: Of its right factor.
    right: int
    #: The same for summands that share their right factor.
    group: int
    #: Whether it exists at labelled positions only, as the head's does.
    labelled: bool


@dataclass(frozen=True)
class ComponentShape:
    """One component, and how its gradient can be factored."""

    name: str
    shape: tuple[int, ...]
    #: The summands of its gradient; none where it cannot be factored.
    factors: tuple[FactorShape, ...]
    #: The piece of the model that it belongs to (see `ModelShape.pieces`).
    piece: int = 0

    @property
    def size(self) -> int:
        """Number of parameters."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class ActivationShape:
    """Activations that a pass holds: of one sample of S tokens, linear * S + quadratic * S^2 bytes."""

    linear: float
    quadratic: float

    def bytes(self, tokens: int, longest: int) -> float:
        """Those of a batch of `tokens` tokens with samples of up to `longest`."""
        return self.linear * tokens + self.quadratic * tokens * longest

    def times(self, factor: float) -> "ActivationShape":
        """So many times these."""
        return ActivationShape(factor * self.linear, factor * self.quadratic)

    def plus(self, *others: "ActivationShape") -> "ActivationShape":
        """These and others; never less than nothing, for all of them are fitted."""
        linear = self.linear + sum(one.linear for one in others)
        quadratic = self.quadratic + sum(one.quadratic for one in others)
        return ActivationShape(max(0.0, linear), max(0.0, quadratic))


@dataclass(frozen=True)
class CheckpointedShape:
    """Activations of a pass that computes those of its blocks again."""

    #: Between the blocks, all the time.
    between: ActivationShape
    #: Of the largest block, while it is gone through on the way back.
    block: ActivationShape


@dataclass(frozen=True)
class PieceShape:
    """A piece of the model that stays whole, on one device."""

    #: Of its weights, trainable or not.
    weight_bytes: int
    #: What it keeps of a sample where all activations are kept.
    activations: ActivationShape


@dataclass(frozen=True)
class ModelShape:
    """All that a plan needs to know of a model."""

    components: tuple[ComponentShape, ...]
    #: Bytes of a number that is held: 4, or 8 for a float64 model.
    number_bytes: int
    #: Bytes of a number of an activation, and their dtype.
    activation_number_bytes: int
    dtype: torch.dtype
    vocabulary: int
    #: Where all are kept, and where those of the blocks are computed again; None: the model has no blocks.
    activations: ActivationShape
    checkpointed: CheckpointedShape | None
    #: Whether several samples can go through at a time.
    batchable: bool
    #: Bytes of all parameters, trainable or not, and of the scales of quantised ones.
    model_bytes: int
    #: Multiply-adds for every token with matrices that are no components: one forward, and one backward where autograd goes.
    other_products: int = 0
    #: Bytes of the largest quantised weight while it is used.
    dequantised_bytes: int = 0
    #: What comes before the blocks, every block, what comes behind them; none where the model cannot be cut up.
    pieces: tuple[PieceShape, ...] = ()
    #: The device of each piece; none where all is on one.
    devices: tuple[int, ...] = ()
    #: The piece that makes logits.
    head: int = 0

    def spread(self, devices: int) -> "ModelShape":
        """The shape of the same model over several devices, as `spread_over` puts it there.

        Raises:
            UnspreadableError: the model cannot be cut up.
        """
        if devices > 1 and not self.pieces:
            raise UnspreadableError("its layers cannot be told apart")
        places = balanced([piece.weight_bytes for piece in self.pieces], devices) if devices > 1 else []
        return replace(self, devices=tuple(places) if len(set(places)) > 1 else ())

    @property
    def device_count(self) -> int:
        """How many devices the model is on."""
        return len(set(self.devices)) or 1

    @property
    def most_model_bytes(self) -> int:
        """Bytes of the parameters on the device that has most of them."""
        if not self.devices:
            return self.model_bytes
        of_device: Counter[int] = Counter()
        for piece, device in zip(self.pieces, self.devices, strict=True):
            of_device[device] += piece.weight_bytes
        return max(of_device.values())

    def on_each(self) -> "list[tuple[ModelShape, list[int]]]":
        """What each device has of the model, as the shape of a model of its own, and the numbers of its components.

        What stands between the blocks all the time is counted on every device: which it is on is not known.
        """
        if not self.devices:
            return [(self, list(range(len(self.components))))]
        return [self._on(device) for device in sorted(set(self.devices))]

    def _on(self, device: int) -> "tuple[ModelShape, list[int]]":
        own = [number for number, one in enumerate(self.components) if self.devices[one.piece] == device]
        blocks = [piece for piece in range(1, len(self.pieces) - 1) if self.devices[piece] == device]
        inside = [self.pieces[piece].activations for piece in range(1, len(self.pieces) - 1)]
        rest = self.activations.plus(*(one.times(-1) for one in inside))
        here = [self.pieces[piece].activations for piece in blocks]
        checkpointed = self.checkpointed
        if checkpointed is not None:
            share = len(blocks) / len(inside)
            between = rest.plus(checkpointed.between.times(share), rest.times(-share))
            checkpointed = replace(checkpointed, between=between)
        shape = replace(
            self,
            components=tuple(self.components[number] for number in own),
            vocabulary=self.vocabulary if self.devices[self.head] == device else 0,
            activations=rest.plus(*here),
            checkpointed=checkpointed,
            pieces=(),
            devices=(),
        )
        return shape, own

    def only(self, numbers: Collection[int]) -> "ModelShape":
        """The shape where gradients are taken of some components alone; what then need not be kept is counted all the same."""
        left = sum(c.size for number, c in enumerate(self.components) if number not in numbers and len(c.shape) > 1)
        return replace(
            self,
            components=tuple(self.components[number] for number in sorted(numbers)),
            other_products=self.other_products + 2 * left,  # forward and backward
        )

    @property
    def factorable(self) -> frozenset[int]:
        """Components that may be held as factors."""
        return frozenset(number for number, component in enumerate(self.components) if component.factors)

    @property
    def matrix_parameters(self) -> int:
        """Parameters that take part in matrix products (each 2 FLOP per token, forward and backward alike)."""
        return sum(
            c.size
            for c in self.components
            if not c.factors or (len(c.shape) > 1 and any(factors.left for factors in c.factors))
        )


def measure(hooks: GradientHooks) -> ModelShape:
    """The shape of a model with hooks, from short forward passes (which FakeTensorMode can do without memory)."""
    activations, checkpointed, of_blocks = _activations(hooks)
    pieces = _pieces(hooks.model)
    of_piece = {id(p): number for number, piece in enumerate(pieces) for _, one in piece for p in one.parameters()}
    factors: dict[int, list[FactorShape]] = {}
    for call in stackable_calls(hooks):
        factors.setdefault(call.component, []).append(FactorShape(call.left, call.right, call.shared, call.labelled))
    return ModelShape(
        components=tuple(
            ComponentShape(name, tuple(parameter.shape), tuple(factors.get(number, ())), of_piece.get(id(parameter), 0))
            for number, (name, parameter) in enumerate(zip(hooks.names, hooks.parameters, strict=True))
        ),
        number_bytes=torch.empty((), dtype=wide(hooks.parameters[0].dtype)).element_size(),
        activation_number_bytes=hooks.parameters[0].element_size(),
        dtype=hooks.parameters[0].dtype,
        vocabulary=_vocabulary(hooks),
        activations=activations,
        checkpointed=checkpointed,
        batchable=hooks.batchable,
        model_bytes=_model_bytes(hooks.model),
        other_products=_other_products(hooks),
        dequantised_bytes=max(
            (layer.used_bytes(hooks.parameters[0].dtype) for layer in quantised_layers(hooks.model)), default=0
        ),
        pieces=tuple(
            PieceShape(bytes_of(piece), own)
            for piece, own in zip(pieces, _of_pieces(len(pieces), activations, of_blocks), strict=True)
        ),
        devices=_devices(pieces),
        head=0 if hooks.head is None else of_piece.get(id(hooks.head.weight), 0),
    )


def _pieces(model: torch.nn.Module) -> list[list[Named]]:
    """The pieces of a model; none where it cannot be cut up."""
    try:
        return pieces_of(model)
    except UnspreadableError:
        return []


def _of_pieces(
    pieces: int, activations: ActivationShape, of_blocks: Sequence[ActivationShape] | None
) -> list[ActivationShape]:
    """What each piece keeps: blocks alone are known; where they were not measured, all is taken to be theirs."""
    if not pieces:
        return []
    blocks = list(of_blocks) if of_blocks is not None else [activations.times(1 / (pieces - 2))] * (pieces - 2)
    nothing = ActivationShape(0.0, 0.0)
    return [nothing, *blocks, nothing]


def _devices(pieces: Sequence[Sequence[Named]]) -> tuple[int, ...]:
    """The number of each piece's device, in the order in which they are met; none where there is one."""
    where: list[torch.device | None] = [
        next((parameter.device for _, module in piece for parameter in module.parameters()), None) for piece in pieces
    ]
    numbers = {device: number for number, device in enumerate(dict.fromkeys(one for one in where if one is not None))}
    return tuple(0 if one is None else numbers[one] for one in where) if len(numbers) > 1 else ()


def _model_bytes(model: torch.nn.Module) -> int:
    in_bits = quantised_layers(model)
    own = {id(layer.codes) for layer in in_bits}
    plain = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in own)
    return plain + sum(layer.held_bytes for layer in in_bits)


def _other_products(hooks: GradientHooks) -> int:
    """As `ModelShape.other_products`, of what a short pass goes through; 0 where it has no fake form."""
    own, products = {id(parameter) for parameter in hooks.parameters}, 0
    sizes = {
        module: module.in_features * module.out_features
        if isinstance(module, QuantisedLinear)
        else sum(p.numel() for p in module.parameters(recurse=False) if id(p) not in own and p.dim() > 1)
        for module in hooks.model.modules()
        if not isinstance(module, torch.nn.Embedding)
    }
    if not any(sizes.values()):
        return 0

    def seen(size: int, module: torch.nn.Module, given: Any, output: Any) -> None:
        nonlocal products
        tensors = output if isinstance(output, tuple) else (output,)
        back = any(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors)
        products += size * (1 + back)

    with ExitStack() as stack, hooks.open():
        for module, size in sizes.items():
            stack.callback(module.register_forward_hook(partial(seen, size)).remove)
        try:
            hooks.forward_only(torch.zeros(1, SHORT, dtype=torch.int64, device=hooks.device))
        except Exception:
            if not _is_fake(hooks):
                raise
    return products


def _activations(
    hooks: GradientHooks,
) -> tuple[ActivationShape, CheckpointedShape | None, list[ActivationShape] | None]:
    """Measured where all are kept, and where those of the blocks are computed again; and those of every block."""
    lengths = [times * SHORT for times in (1, 2, 3)]
    try:
        with hooks.open():
            kept = [_KeptBytes(hooks, tokens) for tokens in lengths]
            if not hooks.plain.checkpointing.blocks:
                return _fitted([one.all for one in kept]), None, None
            with hooks.plain.checkpointing.always():
                between = [_KeptBytes(hooks, tokens).all for tokens in lengths]
    except Exception:
        if not _is_fake(hooks):
            raise
        # Routing by value and some kernels have no fake form (experts): twice what goes in and out of every matrix.
        shapes = [p.shape for use in hooks.uses for p in use.module.parameters(recurse=False) if p.dim() > 1]
        numbers = 2.0 * sum(sum(shape[-2:]) for shape in shapes)
        return ActivationShape(numbers * hooks.parameters[0].element_size(), 0.0), None, None
    checkpointed = CheckpointedShape(_fitted(between), _fitted([one.largest_block for one in kept]))
    blocks = range(len(hooks.plain.checkpointing.blocks))
    of_blocks = [_fitted([one.of_blocks[block] for one in kept]) for block in blocks]
    return _fitted([one.all for one in kept]), checkpointed, of_blocks


def _is_fake(hooks: GradientHooks) -> bool:
    """Whether the model is laid out without memory."""
    return any(type(buffer).__name__ == "FakeTensor" for buffer in hooks.model.buffers())


def _fitted(sizes: list[int]) -> ActivationShape:
    """What explains the bytes of samples of one, two and three times SHORT tokens."""
    first, second, third = sizes
    quadratic = max(0.0, (third - 2 * second + first) / (2 * SHORT**2))  # constants (copies of weights) cancel
    return ActivationShape(max(0.0, (second - first) / SHORT - 3 * SHORT * quadratic), quadratic)


def shape_of(build: Callable[[], torch.nn.Module]) -> ModelShape:
    """The shape of the model that a function makes, without allocating its weights.

    It is made on the meta device: what adapters copy and move while they are made, tensors of FakeTensorMode do not stand.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        model = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _leave_the_meta_device(model)
        return measure(GradientHooks(model))


def _leave_the_meta_device(model: torch.nn.Module) -> None:
    """Puts tensors of the default device in the place of those of a model, tied ones once; their values are nobody's."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for own in places:
            for name, tensor in own.items():
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    if id(tensor) not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                        is_parameter = isinstance(tensor, torch.nn.Parameter)
                        made[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                    own[name] = made[id(tensor)]


def shape_of_config(config: Any, dtype: torch.dtype = torch.float32) -> ModelShape:
    """The shape of a Hugging Face model of this configuration and dtype, without allocating its weights."""
    from transformers import AutoModelForCausalLM

    return shape_of(lambda: AutoModelForCausalLM.from_config(config, dtype=dtype))


def _vocabulary(hooks: GradientHooks) -> int:
    head = hooks.head
    return head.out_features if head is not None else int(getattr(hooks.model.config, "vocab_size", 0))


class _KeptBytes:
    """What the graph of one sample of so many tokens keeps alive, weights not counted."""

    def __init__(self, hooks: GradientHooks, tokens: int) -> None:
        self._own = {parameter.untyped_storage()._cdata for parameter in hooks.model.parameters()}
        self._own |= {buffer.untyped_storage()._cdata for buffer in hooks.model.buffers()}
        #: Bytes by storage, and by the block that was the first to keep it.
        self._sizes: dict[int, int] = {}
        self.of_blocks: Counter[int] = Counter()
        self._block: int | None = None
        #: Inputs that the hooks of a pass keep: while they live, nothing else gets their place, under which bytes are counted.
        self._inputs: list[torch.Tensor] = []
        with ExitStack() as stack:
            for use in hooks.uses:
                if not use.labelled:
                    stack.callback(use.watch(self._remember))
            for number, block in enumerate(hooks.plain.checkpointing.blocks):
                stack.callback(block.register_forward_pre_hook(partial(self._enter, number)).remove)
                stack.callback(block.register_forward_hook(partial(self._enter, None)).remove)
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor))
            with torch.enable_grad():
                output = hooks.forward_only(torch.zeros(1, tokens, dtype=torch.int64, device=hooks.device))
            del output
        self._inputs.clear()
        self.all = sum(self._sizes.values())
        self.largest_block = max(self.of_blocks.values(), default=0)

    def _enter(self, block: int | None, *called: object) -> None:
        self._block = block

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            if self._block is not None:
                self.of_blocks[self._block] += storage.nbytes()
        # An output that its own node keeps with its graph is a cycle that no collector sees, and weights live on with it.
        return tensor.detach()

    def _remember(self, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and isinstance(given, torch.Tensor):  # else it is computed again later
            self._inputs.append(self._pack(given))
        return output
