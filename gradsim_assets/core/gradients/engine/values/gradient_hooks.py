"""Hooks on a model that collect every sample's gradients during one forward and backward pass of a batch."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.gradients.engine.components import trainable_components
from gradsim_assets.core.gradients.engine.values.layers import (
    BatchRows,
    EmbeddingUse,
    MatrixUse,
    ParameterUse,
    Sink,
    UnbatchableError,
    find_use,
    repeated_use,
    tensors_of,
)
from gradsim_assets.core.gradients.engine.values.padded_batch import BatchShape, PaddedBatch, loss_gradient
from gradsim_assets.core.gradients.engine.values.precision import wide


@dataclass
class _Passing:
    """The batch that is on its way through the model, as the hooks see it."""

    rows: BatchRows
    #: Where gradients go; None in a forward pass without a backward one.
    sink: Sink | None = None
    #: int64 [B * L]: positions of the flattened batch that the head makes logits of; None for all.
    predicting: torch.Tensor | None = None
    #: Uses that are not immediate, what they remember, and the gradients of their outputs by position.
    waiting: list[tuple[ParameterUse, Any, dict[int, torch.Tensor]]] = field(default_factory=list)

    def emit(self, use: ParameterUse, remembered: Any, gradient: Any) -> None:
        """Hands the gradients of one use to the sink."""
        assert self.sink is not None
        use.emit(remembered, gradient, self.rows, self.sink)


class GradientHooks:
    """Hooks on every use of a model's trainable parameters. Use `with hooks.open():` around calls of `backward`.

    Raises:
        InputError: nothing is trainable.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        named = trainable_components(model)
        #: Names and parameters of the components, in model order.
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        #: Whether several samples can go through at a time.
        self.batchable = True
        self.uses: list[ParameterUse] = []
        #: Components that only autograd through the whole model gives.
        self.whole_model: set[int] = set()
        #: The layer that makes logits of hidden states, if it is known.
        self.head = _head_of(model)
        self._passing: _Passing | None = None
        numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        for module in model.modules():
            own = {n: numbers[id(p)] for n, p in module._parameters.items() if p is not None and id(p) in numbers}
            if own:
                self._add(find_use(module, own), own)

    def _add(self, use: ParameterUse | None, own: dict[str, int]) -> None:
        if use is None:
            self._give_up(set(own.values()))
            return
        use.labelled = use.module is self.head
        self.uses.append(use)
        if self.whole_model & set(own.values()):
            self._give_up(set(own.values()))

    def _give_up(self, components: set[int]) -> None:
        # A component is collected at all of its uses or at none: a sum must not lose a summand or count one twice.
        self.whole_model |= components
        self.batchable = False
        for use in list(self.uses):
            use.components = {n: c for n, c in use.components.items() if c not in self.whole_model}
            if not use.components:
                self.uses.remove(use)

    def demote(self, components: set[int]) -> None:
        """Replaces what gave wrong gradients for `components` by the next more general way of getting them."""
        for use in list(self.uses):
            wrong = {n: c for n, c in use.components.items() if c in components}
            if not wrong:
                continue
            general = repeated_use(use.module, use.components)
            if type(use) is MatrixUse or general is None or type(general) is type(use):
                self._give_up(set(wrong.values()))
            else:
                self.uses[self.uses.index(use)] = general
                self.batchable = False

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the components."""
        return [parameter.shape for parameter in self.parameters]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of gradients and products."""
        return wide(self.parameters[0].dtype)

    @property
    def factorable(self) -> frozenset[int]:
        """Components whose gradients come as factors from every one of their uses."""
        possible = {use.components["weight"] for use in self.uses if "weight" in use.components and _factors(use)}
        formed = {c for use in self.uses for n, c in use.components.items() if n != "weight" or not _factors(use)}
        return frozenset(possible - formed - self.whole_model)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hooks in place and parameters frozen; everything is as it was afterwards."""
        wanted = [(parameter, parameter.requires_grad, parameter.grad) for parameter in self.model.parameters()]
        training = self.model.training
        handles = []
        try:
            self.model.eval()
            for number, parameter in enumerate(self.parameters):
                parameter.requires_grad_(number in self.whole_model)
                parameter.grad = None
            for use in self.uses:
                handles.append(use.module.register_forward_hook(self._hook(use), with_kwargs=True))
            if self.head is not None:
                handles.append(self.head.register_forward_pre_hook(self._select))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, required, gradient in wanted:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            self.model.train(training)

    def _select(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Logits at labelled positions only: the loss does not see the others, and a vocabulary is wide.
        if self._passing is None or self._passing.predicting is None:
            return args
        hidden = args[0]
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._passing.predicting)
        return (selected[None], *args[1:])

    def _hook(self, use: ParameterUse) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._passing is None:
                return
            outputs = tensors_of(output)
            for tensor in outputs:
                if not tensor.requires_grad:  # the first layers: with frozen weights the graph begins here
                    tensor.requires_grad_(True)
            if use.immediate:
                remembered = (args[0] if args else next(iter(kwargs.values()))).detach()
                outputs[0].register_hook(lambda gradient: self._emit(use, remembered, gradient))
                return
            found: dict[int, torch.Tensor] = {}
            self._passing.waiting.append((use, (args, kwargs), found))
            for position, tensor in enumerate(outputs):
                tensor.register_hook(lambda gradient, position=position: found.__setitem__(position, gradient))

        return hook

    def _emit(self, use: ParameterUse, remembered: Any, gradient: torch.Tensor) -> None:
        # By way of `self`: a graph that held on to its batch would be a cycle, freed only when the collector runs.
        assert self._passing is not None
        self._passing.emit(use, remembered, gradient)

    @contextmanager
    def _pass(self, passing: _Passing) -> Iterator[None]:
        self._passing = passing
        try:
            yield
        finally:
            self._passing = None

    def forward_only(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [1, T, V] of one sample with the graph of a pass, of which no gradient is taken."""
        length = input_ids.shape[1]
        with self._pass(_Passing(BatchRows(BatchShape((length,), (length,)), head_sees_labelled=False))):
            logits: torch.Tensor = self.model(input_ids=input_ids, **self._arguments(input_ids.shape)).logits
        return logits

    def backward(self, batch: PaddedBatch, sink: Sink) -> torch.Tensor:
        """Collects every component's gradient of every sample; returns the losses [B] (nats per response token).

        Nothing waits for the device: the losses are on it.

        Raises:
            UnbatchableError: there are several samples, and they cannot be told apart.
        """
        if batch.shape.samples > 1 and not self.batchable:
            raise UnbatchableError
        known = self.head is not None
        passing = _Passing(BatchRows(batch.shape, known), sink, batch.predicting if known else None)
        with self._pass(passing):
            losses = self._forward_and_backward(batch)
        # Behind the pass, so that repeated forward passes of modules are not taken for the batch again.
        for use, remembered, gradients in passing.waiting:
            passing.emit(use, remembered, gradients)
        self._emit_whole_model(sink)
        return losses

    def _forward_and_backward(self, batch: PaddedBatch) -> torch.Tensor:
        """Losses [B] of a batch whose gradients have come by at the hooks."""
        with torch.enable_grad():
            logits = self.model(input_ids=batch.input_ids, **self._arguments(batch.input_ids.shape)).logits
        logits = logits.reshape(-1, logits.shape[-1])
        selected = logits.detach() if self.head is not None else logits.detach().index_select(0, batch.predicting)
        losses, gradient = loss_gradient(selected, batch.targets, batch.shares, batch.shape.samples)
        if self.head is None:  # what is repeated to fill up has a gradient of zero
            gradient = torch.zeros_like(logits).index_add_(0, batch.predicting, gradient)
        torch.autograd.backward(logits, gradient)
        return losses

    def _emit_whole_model(self, sink: Sink) -> None:
        for number in self.whole_model:
            parameter = self.parameters[number]
            if parameter.grad is not None:
                sink.formed(number, parameter.grad[None])
                parameter.grad = None

    def _arguments(self, shape: torch.Size) -> dict[str, Any]:
        """What the model is called with beside token ids of this shape [B, T]."""
        accepted = inspect.signature(self.model.forward).parameters
        arguments: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted or "kwargs" in accepted else {}
        if shape[0] > 1 and self._learned_positions and "position_ids" in accepted:
            # Left alone, models look up one row of positions for the whole batch, which sums its samples' gradients.
            arguments["position_ids"] = torch.arange(shape[1], device=self.device).expand(shape)
        return arguments

    @property
    def _learned_positions(self) -> bool:
        return sum(isinstance(use, EmbeddingUse) for use in self.uses) > 1


def _head_of(model: nn.Module) -> nn.Linear | None:
    getter = getattr(model, "get_output_embeddings", None)
    found = getter() if getter else None
    return found if isinstance(found, nn.Linear) else None


def _factors(use: ParameterUse) -> bool:
    return isinstance(use, (MatrixUse, EmbeddingUse))
