"""What a pass costs per token, read off a model: sizes of factors, who shares an input, memory of activations."""

from dataclasses import dataclass
from typing import Any

import torch

from gradsim_assets.core.sample_gradients.factor_stacks import stackable_calls
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.precision import wide

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

    @property
    def size(self) -> int:
        """Number of parameters."""
        size = 1
        for length in self.shape:
            size *= length
        return size


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
    #: Activations of one sample of S tokens take linear * S + quadratic * S^2 bytes.
    linear: float
    quadratic: float
    #: Whether several samples can go through at a time.
    batchable: bool
    #: Bytes of all parameters, trainable or not.
    model_bytes: int

    def activations(self, tokens: int, longest: int) -> float:
        """Bytes of activations of a batch of `tokens` tokens with samples of up to `longest`."""
        return self.linear * tokens + self.quadratic * tokens * longest

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
    """The shape of a model with hooks, from three short forward passes (which FakeTensorMode can do without memory)."""
    linear, quadratic = _activations(hooks)
    factors: dict[int, list[FactorShape]] = {}
    for call in stackable_calls(hooks):
        factors.setdefault(call.component, []).append(FactorShape(call.left, call.right, call.shared, call.labelled))
    return ModelShape(
        components=tuple(
            ComponentShape(name, tuple(parameter.shape), tuple(factors.get(number, ())))
            for number, (name, parameter) in enumerate(zip(hooks.names, hooks.parameters, strict=True))
        ),
        number_bytes=torch.empty((), dtype=wide(hooks.parameters[0].dtype)).element_size(),
        activation_number_bytes=hooks.parameters[0].element_size(),
        dtype=hooks.parameters[0].dtype,
        vocabulary=_vocabulary(hooks),
        linear=linear,
        quadratic=quadratic,
        batchable=hooks.batchable,
        model_bytes=sum(p.numel() * p.element_size() for p in hooks.model.parameters()),
    )


def _activations(hooks: GradientHooks) -> tuple[float, float]:
    """Bytes per token and per token squared, measured."""
    try:
        with hooks.open():
            first, second, third = (_activation_bytes(hooks, times * SHORT) for times in (1, 2, 3))
    except Exception:
        if not any(type(parameter).__name__ == "FakeTensor" for parameter in hooks.model.buffers()):
            raise
        # Routing by value and some kernels have no fake form (experts): twice what goes in and out of every matrix.
        shapes = [p.shape for use in hooks.uses for p in use.module.parameters(recurse=False) if p.dim() > 1]
        return 2.0 * sum(sum(shape[-2:]) for shape in shapes) * hooks.parameters[0].element_size(), 0.0
    quadratic = max(0.0, (third - 2 * second + first) / (2 * SHORT**2))  # constants (copies of weights) cancel
    return max(0.0, (second - first) / SHORT - 3 * SHORT * quadratic), quadratic


def shape_of_config(config: Any, dtype: torch.dtype = torch.float32) -> ModelShape:
    """The shape of a Hugging Face model of this configuration and dtype, without allocating its weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure(GradientHooks(AutoModelForCausalLM.from_config(config, dtype=dtype)))


def _vocabulary(hooks: GradientHooks) -> int:
    head = hooks.head
    return head.out_features if head is not None else int(getattr(hooks.model.config, "vocab_size", 0))


def _activation_bytes(hooks: GradientHooks, tokens: int) -> int:
    """Bytes that the graph of one sample of so many tokens keeps alive, weights not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in hooks.model.parameters()}
    own |= {buffer.untyped_storage()._cdata for buffer in hooks.model.buffers()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    def remember(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        for one in args:
            if isinstance(one, torch.Tensor):
                pack(one)

    handles = [use.module.register_forward_pre_hook(remember) for use in hooks.uses if not use.labelled]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
            output = hooks.forward_only(torch.zeros(1, tokens, dtype=torch.int64, device=hooks.device))
        del output
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes.values())
