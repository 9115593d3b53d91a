"""Uses of parameters: the modules of a model where parameters meet activations, and the gradient's form at each.

A use sees its module's input in the forward pass and the gradient of its output in the backward pass. The gradients of
its parameters are made of these two alone. Parameters themselves are frozen during a pass, so autograd neither forms
their (batch-summed) gradients nor fills `.grad`.

Shapes: B samples of a batch, T padded tokens of each, O outputs and I inputs of a matrix.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from gradsim_assets.core.gradients.engine.values.factors import Factors
from gradsim_assets.core.gradients.engine.values.padded_batch import BatchShape
from gradsim_assets.core.gradients.engine.values.precision import wide


class Sink(Protocol):
    """Takes the gradients of a batch's samples as the backward pass brings them up."""

    def factors(self, use: "ParameterUse", factors: Factors) -> None:
        """Takes one summand of the gradients of a use's weight, as factors."""
        ...

    def formed(self, component: int, gradients: torch.Tensor) -> None:
        """Takes one summand of a component's gradients [B, *shape of the parameter]."""
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
        if tensor.dim() == 3 and tensor.shape[:2] == (self.samples, self._tokens):
            return tensor
        if self.samples == 1:  # whatever rows there are, they are this sample's
            return tensor.reshape(1, -1, features)
        raise UnbatchableError


class ParameterUse:
    """One module with trainable parameters of its own."""

    #: Whether the gradient is known as soon as that of the module's output is. If so the use remembers the module's
    #: input tensor; else it remembers the module's (args, kwargs) and waits for the end of the backward pass.
    immediate = True

    def __init__(self, module: nn.Module, components: dict[str, int]) -> None:
        self.module = module
        #: Numbers of the components, by the parameters' names in the module ("weight", "bias").
        self.components = components
        #: Whether the module sees labelled tokens alone, as the head does.
        self.labelled = False

    def emit(self, remembered: Any, gradient: Any, rows: BatchRows, sink: Sink) -> None:
        """Hands the gradients of the module's parameters to the sink.

        `gradient` is that of the output, or of several outputs by their position where the use is not immediate.

        Raises:
            UnbatchableError: samples of the batch cannot be told apart here.
        """
        raise NotImplementedError


class MatrixUse(ParameterUse):
    """nn.Linear (weight [O, I]) and Conv1D of GPT-2 (weight [I, O]), both with or without bias."""

    def __init__(self, module: nn.Module, components: dict[str, int], transposed: bool) -> None:
        super().__init__(module, components)
        self.transposed = transposed

    def emit(self, remembered: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        g, x = rows.of(gradient, self.labelled), rows.of(remembered, self.labelled)
        if "weight" in self.components:
            sink.factors(self, Factors(x, g) if self.transposed else Factors(g, x))
        if "bias" in self.components:
            sink.formed(self.components["bias"], g.sum(1, dtype=wide(g.dtype)))


class EmbeddingUse(ParameterUse):
    """nn.Embedding; the row of `padding_idx` gets no gradient, as in PyTorch."""

    def __init__(self, module: nn.Embedding, components: dict[str, int]) -> None:
        super().__init__(module, components)
        self._padding = module.padding_idx

    def emit(self, remembered: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        g = rows.of(gradient, False)
        ids = remembered.expand(g.shape[:2])  # learned positions come as one row for the whole batch
        if self._padding is not None:
            g = g * (ids != self._padding)[..., None]
        sink.factors(self, Factors(ids, g))


class NormUse(ParameterUse):
    """LayerNorm and RMSNorm (weight w or 1 + w): d loss / d w = sum_s g_s * normalised x_s."""

    def __init__(self, module: nn.Module, components: dict[str, int], epsilon: float) -> None:
        super().__init__(module, components)
        self._epsilon = epsilon
        self._layer_norm = isinstance(module, nn.LayerNorm)

    def emit(self, remembered: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        x, g = remembered.to(wide(remembered.dtype)), gradient.to(wide(gradient.dtype))
        if "weight" in self.components:
            if self._layer_norm:
                normal = F.layer_norm(x, x.shape[-1:], eps=self._epsilon)
            else:
                normal = F.rms_norm(x, x.shape[-1:], eps=self._epsilon)
            self._emit(self.components["weight"], g * normal, rows, sink)
        if "bias" in self.components:
            self._emit(self.components["bias"], g, rows, sink)

    def _emit(self, component: int, summands: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        if rows.samples > 1 and summands.shape[0] != rows.samples:
            raise UnbatchableError
        # A norm over heads has [batch, S, heads, features] or [batch, heads, S, features]: padded tokens have a
        # gradient of exactly zero, so nothing needs to be cut off.
        sink.formed(component, summands.reshape(rows.samples, -1, summands.shape[-1]).sum(1))


class RepeatedUse(ParameterUse):
    """Any module that alone uses its parameters: its forward pass is repeated with them in the graph.

    This is how mixture-of-experts blocks with fused 3-D weights, routers and odd norms come by exact gradients. It
    costs one more forward pass of the module and works at batch size 1.
    """

    immediate = False

    def emit(self, remembered: Any, gradient: dict[int, torch.Tensor], rows: BatchRows, sink: Sink) -> None:
        if rows.samples > 1:
            raise UnbatchableError
        args, kwargs = _detached(remembered)
        names = list(self.components)
        parameters = [self.module.get_parameter(name) for name in names]
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                outputs = tensors_of(self.module.forward(*args, **kwargs))
            used = [(outputs[position], g) for position, g in gradient.items() if outputs[position].requires_grad]
            if used:
                tops, gradients = zip(*used, strict=True)
                found = torch.autograd.grad(tops, parameters, gradients, allow_unused=True)
                for name, one in zip(names, found, strict=True):
                    if one is not None:
                        sink.formed(self.components[name], one[None])
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)


def tensors_of(output: Any) -> list[torch.Tensor]:
    """The floating tensors among a module's outputs, in order."""
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    return [one for one in outputs if isinstance(one, torch.Tensor) and one.is_floating_point()]


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(_detached(one) for one in value)
    if isinstance(value, dict):
        return {key: _detached(one) for key, one in value.items()}
    return value


def find_use(module: nn.Module, components: dict[str, int]) -> ParameterUse | None:
    """The use of a module whose own trainable parameters are `components`; None if only whole-model autograd can.

    A module is judged by its looks here; every use is verified against autograd before a pass trusts it.
    """
    if isinstance(module, nn.Linear):
        return MatrixUse(module, components, transposed=False)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return MatrixUse(module, components, transposed=True)
    if isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return EmbeddingUse(module, components) if plain else None
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return NormUse(module, components, module.eps)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" in type(module).__name__ and set(components) == {"weight"} and epsilon is not None:
        return NormUse(module, components, epsilon)
    return repeated_use(module, components)


def repeated_use(module: nn.Module, components: dict[str, int]) -> ParameterUse | None:
    """A use that repeats the module's forward pass; None where that would repeat other modules as well."""
    return RepeatedUse(module, components) if not list(module.children()) else None
