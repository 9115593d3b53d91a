"""Uses of parameters that have a closed form: the layers where parameters meet activations, and the gradient at each.

A use sees its layer's input in the forward pass and the gradient of its output in the backward pass. The gradients of
its parameters are made of these two alone. Parameters themselves are frozen during a pass, so autograd neither forms
their (batch-summed) gradients nor fills `.grad`.

Shapes: B samples of a batch, T padded tokens of each, O outputs and I inputs of a matrix.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from gradsim_assets.core.sample_gradients.activation_checkpointing import replaced_forward
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.precision import wide


class Sink(Protocol):
    """Takes the gradients of a batch's samples as the backward pass brings them up."""

    def factors(self, use: "ParameterUse", factors: Factors) -> None:
        """Takes one summand of the gradients of a use's weight, as factors."""
        ...

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes one summand of a component's gradients [B, *shape of the parameter].

        `rows` [B, .., *shape] are what it is the sum of over all axes between, of which one is that of the positions; None
        where nobody knows them.
        """
        ...


class UnbatchableError(Exception):
    """A module mixes the samples of a batch in a way that cannot be told apart; batch size 1 always can."""


class BatchRows:
    """Which rows of a module's tensors belong to which sample of the batch."""

    def __init__(self, shape: BatchShape, head_sees_labelled: bool) -> None:
        self.samples = shape.samples
        self._tokens = shape.tokens
        self._head_sees_labelled = head_sees_labelled

    def of(self, tensor: torch.Tensor, labelled: bool) -> torch.Tensor:
        """The tensor as [B, rows, features]; `labelled` tells one of the layer that may see labelled tokens alone.

        Rows that are padding come too: their gradients are zero. It is the same memory wherever it can be, so that
        layers which share an input are seen to share it.
        """
        features = tensor.shape[-1]
        if labelled and self._head_sees_labelled:
            return tensor.reshape(self.samples, -1, features)
        whole = (self.samples, self._tokens)
        if tensor.dim() == 3 and tensor.shape[:2] == whole:
            return tensor
        if self.samples == 1:  # whatever rows there are, they are this sample's
            return tensor.reshape(1, -1, features)
        if tensor.dim() == 2 and len(tensor) == self.samples * self._tokens:
            return tensor.unflatten(0, whole)
        if tensor.dim() > 3 and len(tensor) == self.samples:
            return tensor.flatten(1, -2)
        raise UnbatchableError

    def serves_all(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor is one row of T tokens, of positions say, for all samples of a batch: [1, T, features] or [T, ..]."""
        tokens = tensor.shape[:-1]
        return self.samples > 1 and tuple(tokens) in ((1, self._tokens), (self._tokens,))


#: Is shown a layer's input and output, and returns what goes on in the output's place.
Seen = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ParameterUse:
    """One module with trainable parameters of its own."""

    def __init__(self, module: nn.Module, components: dict[str, int]) -> None:
        self.module = module
        #: Numbers of the components, by the parameters' names in the module ("weight", "bias").
        self.components = components
        #: Whether the module sees labelled tokens alone, as the head does.
        self.labelled = False

    def watch(self, seen: Seen) -> Callable[[], None]:
        """Shows `seen` every use of the module; the function that it returns ends that."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = args[0] if args else next(iter(kwargs.values()))
            if isinstance(output, tuple):
                return (seen(given, output[0]), *output[1:])
            return seen(given, output)

        return self.module.register_forward_hook(hook, with_kwargs=True).remove

    def emit(self, given: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        """Hands the gradients of the module's parameters, made of its input and its output's gradient, to the sink.

        Raises:
            UnbatchableError: samples of the batch cannot be told apart here.
        """
        raise NotImplementedError


class MatrixUse(ParameterUse):
    """nn.Linear (weight [O, I]) and Conv1D of GPT-2 (weight [I, O]), both with or without bias."""

    def __init__(self, module: nn.Module, components: dict[str, int], transposed: bool) -> None:
        super().__init__(module, components)
        self.transposed = transposed

    def emit(self, given: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        g, x = rows.of(gradient, self.labelled), rows.of(given, self.labelled)
        if "weight" in self.components:
            sink.factors(self, Factors(x, g) if self.transposed else Factors(g, x))
        if "bias" in self.components:
            sink.formed(self.components["bias"], g.sum(1, dtype=wide(g.dtype)), g)


class EmbeddingUse(ParameterUse):
    """nn.Embedding; the row of `padding_idx` gets no gradient, as in PyTorch.

    Of a class derived from it, which may scale what it looks up or shift positions, every lookup inside is seen.
    """

    def __init__(self, module: nn.Embedding, components: dict[str, int]) -> None:
        super().__init__(module, components)
        self._padding = module.padding_idx

    def watch(self, seen: Seen) -> Callable[[], None]:
        """Shows `seen` every lookup; the function that it returns ends that."""
        module, forward = self.module, self.module.forward
        if type(module).forward is nn.Embedding.forward:
            return super().watch(seen)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with _Lookups(module.get_parameter("weight"), seen):
                return forward(*args, **kwargs)

        stack = ExitStack()
        stack.enter_context(replaced_forward(module, watched))
        return stack.close

    def emit(self, given: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        g = rows.of(gradient, False)
        # Learned positions come as one row for the whole batch.
        ids = given.expand(g.shape[:2]) if given.numel() < g.shape[:2].numel() else given.reshape(g.shape[:2])
        if self._padding is not None:
            g = g * (ids != self._padding)[..., None]
        sink.factors(self, Factors(ids, g))


class _Lookups(TorchFunctionMode):
    """Shows `seen` every lookup in one table."""

    def __init__(self, table: torch.Tensor, seen: Seen) -> None:
        super().__init__()
        self._table, self._seen = table, seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is F.embedding and len(args) > 1 and args[1] is self._table:
            return self._seen(args[0], found)
        return found


class NormUse(ParameterUse):
    """Layers that scale what they have made of their input x, w n(x) or (1 + w) n(x), and may shift it by b.

    d loss / d w = sum_s g_s * n(x_s) and d loss / d b = sum_s g_s. LayerNorm and RMSNorm are computed by PyTorch's own
    functions; any other layer tells its n(x) itself, as the difference between w = 1 and w = 0.
    """

    def __init__(self, module: nn.Module, components: dict[str, int], epsilon: float | None) -> None:
        super().__init__(module, components)
        self._epsilon = epsilon
        self._layer_norm = isinstance(module, nn.LayerNorm)

    def emit(self, given: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        g = gradient.to(wide(gradient.dtype))
        if "weight" in self.components:
            self._emit(self.components["weight"], g * self._normal(given.to(wide(given.dtype))), rows, sink)
        if "bias" in self.components:
            self._emit(self.components["bias"], g, rows, sink)

    def _normal(self, x: torch.Tensor) -> torch.Tensor:
        if self._epsilon is None:
            weight = self.module.get_parameter("weight")
            one, zero = (
                functional_call(self.module, {"weight": torch.full_like(weight, value)}, (x,)) for value in (1, 0)
            )
            difference: torch.Tensor = one - zero
            return difference
        if self._layer_norm:
            return F.layer_norm(x, x.shape[-1:], eps=self._epsilon)
        return F.rms_norm(x, x.shape[-1:], eps=self._epsilon)

    def _emit(self, component: int, summands: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        if len(summands) != rows.samples:
            summands = rows.of(summands, False)
        # A norm over heads has [batch, S, heads, features] or [batch, heads, S, features]: padded tokens have a
        # gradient of exactly zero, so nothing needs to be cut off.
        sink.formed(component, summands.reshape(rows.samples, -1, summands.shape[-1]).sum(1), summands)


def find_use(module: nn.Module, components: dict[str, int]) -> ParameterUse | None:
    """The use of a module whose own trainable parameters are `components`; None if it has no closed form.

    A module is judged by its looks here; every use is verified against autograd before a pass trusts it.
    """
    if isinstance(module, nn.Linear):
        return MatrixUse(module, components, transposed=False)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return MatrixUse(module, components, transposed=True)
    if isinstance(module, nn.Embedding):
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return EmbeddingUse(module, components) if plain and set(components) == {"weight"} else None
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return NormUse(module, components, module.eps)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" in type(module).__name__ and set(components) == {"weight"} and epsilon is not None:
        return NormUse(module, components, epsilon)
    return NormUse(module, components, None) if _scales(module) and set(components) <= {"weight", "bias"} else None


def _scales(module: nn.Module) -> bool:
    """Whether a module looks like a norm of one input."""
    vectors = all(parameter.dim() == 1 for parameter in module.parameters())
    return "Norm" in type(module).__name__ and vectors and len(inspect.signature(module.forward).parameters) == 1
