"""Sites: the places in a model where parameters meet activations, and the gradient's form at each.

A site sees its module's input in the forward pass and the gradient of its output in the backward pass; that is all
that the parameters' gradients are made of. Parameters themselves are frozen during a pass, so autograd neither forms
their (batch-summed) gradients nor fills `.grad`.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from gradsim_assets.core.gradients.engine.values.factors import Part


class Sink(Protocol):
    """Takes gradients, sample by sample, as the backward pass brings them up."""

    def part(self, component: int, sample: int, part: Part) -> None:
        """One factored summand of a matrix's gradient."""
        ...

    def dense(self, component: int, sample: int, gradient: torch.Tensor) -> None:
        """One formed summand of a gradient, in the parameter's own shape."""
        ...


class Rows:
    """Which rows of a packed or padded tensor belong to which sample of the batch."""

    def __init__(self, lengths: list[int], padded: int) -> None:
        self.lengths, self.padded = lengths, padded
        self.kept: list[int] | None = None  # rows per sample behind the selection of labelled positions
        self._last: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def split(self, tensor: torch.Tensor, packed: bool) -> list[torch.Tensor]:
        """Per sample [S, features]. Asked twice in a row for one tensor it returns the same objects.

        Layers that share an input follow each other in the backward pass, so they come to share its parts.
        """
        if self._last is None or self._last[0] is not tensor:
            self._last = (tensor, self._split(tensor, packed))
        return self._last[1]

    def _split(self, tensor: torch.Tensor, packed: bool) -> list[torch.Tensor]:
        if packed and self.kept is not None:
            return list(tensor.reshape(-1, tensor.shape[-1]).split(self.kept))
        if len(self.lengths) == 1:  # whatever rows there are, they are this sample's
            return [tensor.reshape(-1, tensor.shape[-1])]
        if tensor.dim() != 3 or tensor.shape[:2] != (len(self.lengths), self.padded):
            raise UnbatchableError
        return [tensor[position, :length] for position, length in enumerate(self.lengths)]


class UnbatchableError(Exception):
    """A module mixes the samples of a batch in a way that cannot be told apart; batch size 1 always can."""


class Site:
    """One module with trainable parameters; `components` maps its parameters' local names to component numbers.

    An immediate site remembers its input tensor, any other one its module's (args, kwargs).
    """

    #: Whether the gradient is known when the output's gradient is (else it waits for the end of the backward pass).
    immediate = True

    def __init__(self, module: nn.Module, components: dict[str, int]) -> None:
        self.module, self.components = module, components
        self.packed = False  # behind the selection of labelled positions

    def emit(self, memory: Any, gradient: torch.Tensor, rows: Rows, sink: Sink) -> None:
        """Hands the gradients of this module's parameters to the sink."""
        raise NotImplementedError


class MatrixSite(Site):
    """nn.Linear (weight [O, I]) and Conv1D of GPT-2 (weight [I, O]), both with or without bias."""

    def __init__(self, module: nn.Module, components: dict[str, int], transposed: bool) -> None:
        super().__init__(module, components)
        self._transposed = transposed

    def emit(self, memory: Any, gradient: torch.Tensor, rows: Rows, sink: Sink) -> None:
        outputs = rows.split(gradient, self.packed)
        inputs = rows.split(memory, self.packed)  # last, so that the next layer finds it if it has the same input
        weight, bias = self.components.get("weight"), self.components.get("bias")
        if weight is not None:
            for sample, (g, x) in enumerate(zip(outputs, inputs, strict=True)):
                sink.part(weight, sample, Part(x, g) if self._transposed else Part(g, x))
        if bias is not None:
            for sample, g in enumerate(outputs):
                sink.dense(bias, sample, g.to(_wide(g)).sum(0))


class EmbeddingSite(Site):
    """nn.Embedding; the row of `padding_idx` gets no gradient, as in PyTorch."""

    def emit(self, memory: Any, gradient: torch.Tensor, rows: Rows, sink: Sink) -> None:
        outputs = rows.split(gradient, False)
        tokens = memory.expand(len(rows.lengths), -1)  # learned positions come as one row for the whole batch
        padding = self.module.padding_idx
        for sample, g in enumerate(outputs):
            ids = tokens[sample, : len(g)]
            if padding is not None:
                g = g * (ids != padding)[:, None]
            sink.part(self.components["weight"], sample, Part(ids, g))


class NormSite(Site):
    """LayerNorm and RMSNorm (weight w or 1 + w): d loss / d w = sum_s g_s * normalised x_s."""

    def __init__(self, module: nn.Module, components: dict[str, int], epsilon: float) -> None:
        super().__init__(module, components)
        self._epsilon = epsilon
        self._layer_norm = isinstance(module, nn.LayerNorm)

    def emit(self, memory: Any, gradient: torch.Tensor, rows: Rows, sink: Sink) -> None:
        x, g = memory.to(_wide(memory)), gradient.to(_wide(gradient))
        if "weight" in self.components:
            if self._layer_norm:
                normal = F.layer_norm(x, x.shape[-1:], eps=self._epsilon)
            else:
                normal = F.rms_norm(x, x.shape[-1:], eps=self._epsilon)
            self._emit(self.components["weight"], g * normal, rows, sink)
        if "bias" in self.components:
            self._emit(self.components["bias"], g, rows, sink)

    def _emit(self, component: int, summands: torch.Tensor, rows: Rows, sink: Sink) -> None:
        if len(rows.lengths) > 1 and summands.shape[0] != len(rows.lengths):
            raise UnbatchableError
        # A norm over heads has [batch, S, heads, features] or [batch, heads, S, features]: padded tokens have a
        # gradient of exactly zero, so nothing needs to be cut off.
        for sample, total in enumerate(summands.reshape(len(rows.lengths), -1, summands.shape[-1]).sum(1)):
            sink.dense(component, sample, total)


class LocalSite(Site):
    """Any module that alone uses its parameters: its forward pass is repeated with them in the graph.

    This is how mixture-of-experts blocks with fused 3-D weights, routers and odd norms come by exact gradients; it
    costs one more forward pass of the module and works at batch size 1.
    """

    immediate = False

    def emit(self, memory: Any, gradient: Any, rows: Rows, sink: Sink) -> None:
        if len(rows.lengths) > 1:
            raise UnbatchableError
        args, kwargs = _detached(memory)
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
                        sink.dense(self.components[name], 0, one)
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


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def find_site(module: nn.Module, components: dict[str, int]) -> Site | None:
    """The site of a module whose own trainable parameters are `components`; None if only whole-model autograd can.

    What is chosen here by a module's looks is verified against autograd before a pass trusts it.
    """
    if isinstance(module, nn.Linear):
        return MatrixSite(module, components, transposed=False)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return MatrixSite(module, components, transposed=True)
    if type(module).forward is nn.Embedding.forward:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return EmbeddingSite(module, components) if plain else None
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return NormSite(module, components, module.eps)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" in type(module).__name__ and set(components) == {"weight"} and epsilon is not None:
        return NormSite(module, components, epsilon)
    return local_site(module, components)


def local_site(module: nn.Module, components: dict[str, int]) -> Site | None:
    """A site that repeats the module's forward pass; None where that would repeat other modules as well."""
    return LocalSite(module, components) if not list(module.children()) else None
