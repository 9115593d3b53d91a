"""The tap: one forward and backward pass of a batch, with the gradients drawn off on the way, sample by sample."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.gradients.engine.components import trainable_components
from gradsim_assets.core.gradients.engine.values.layers import (
    EmbeddingSite,
    MatrixSite,
    Rows,
    Sink,
    Site,
    UnbatchableError,
    find_site,
    local_site,
    tensors_of,
)
from gradsim_assets.core.gradients.engine.values.precision import wide
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample


class Tap:
    """Hooks on every site of a model. Use `with tap.open():` around calls of `backward`."""

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        named = trainable_components(model)
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.batchable = True
        self.sites: list[Site] = []
        self.whole_model: set[int] = set()  # components that only autograd through the whole model gives
        self._head = self._find_head()
        self._rows: Rows | None = None
        self._keep: torch.Tensor | None = None
        self._sink: Sink | None = None
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None
        self._busy = False
        self._waiting: list[tuple[Site, Any, dict[int, torch.Tensor]]] = []
        numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        for module in model.modules():
            own = {n: numbers[id(p)] for n, p in module._parameters.items() if p is not None and id(p) in numbers}
            if own:
                self._add(find_site(module, own), own)

    def _find_head(self) -> nn.Linear | None:
        getter = getattr(self.model, "get_output_embeddings", None)
        found = getter() if getter else None
        return found if isinstance(found, nn.Linear) else None

    def _add(self, site: Site | None, own: dict[str, int]) -> None:
        if site is None:
            self._give_up(set(own.values()))
            return
        site.packed = site.module is self._head
        self.sites.append(site)
        if self.whole_model & set(own.values()):
            self._give_up(set(own.values()))

    def _give_up(self, components: set[int]) -> None:
        # A component is drawn off at all of its sites or at none: a sum must not lose a summand or count one twice.
        self.whole_model |= components
        self.batchable = False
        for site in list(self.sites):
            site.components = {n: c for n, c in site.components.items() if c not in self.whole_model}
            if not site.components:
                self.sites.remove(site)

    def demote(self, components: set[int]) -> None:
        """Replaces what gave wrong gradients for `components` by the next more general way of getting them."""
        for site in list(self.sites):
            wrong = {n: c for n, c in site.components.items() if c in components}
            if not wrong:
                continue
            general = local_site(site.module, site.components)
            if type(site) is MatrixSite or general is None or type(general) is type(site):
                self._give_up(set(wrong.values()))
            else:
                self.sites[self.sites.index(site)] = general
                self.batchable = False

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
            for site in self.sites:
                handles.append(site.module.register_forward_hook(self._hook(site), with_kwargs=True))
            if self._head is not None:
                handles.append(self._head.register_forward_pre_hook(self._select))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, required, gradient in wanted:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            self.model.train(training)
            self._clear()

    def _clear(self) -> None:
        self._rows = self._keep = self._sink = self._last = None
        self._waiting = []

    def _select(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Logits at labelled positions only: the loss does not see the others, and a vocabulary is wide.
        if self._keep is None:
            return args
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1])[self._keep][None], *args[1:])

    def _hook(self, site: Site) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._rows is None or self._busy:
                return
            memory = self._input(args[0] if args else next(iter(kwargs.values()))) if site.immediate else (args, kwargs)
            outputs = tensors_of(output)
            for tensor in outputs:
                if not tensor.requires_grad:  # the first layers: with frozen weights the graph begins here
                    tensor.requires_grad_(True)
            if site.immediate:
                outputs[0].register_hook(lambda gradient: self._emit(site, memory, gradient))
                return
            found: dict[int, torch.Tensor] = {}
            self._waiting.append((site, memory, found))
            for position, tensor in enumerate(outputs):
                tensor.register_hook(lambda gradient, position=position: found.__setitem__(position, gradient))

        return hook

    def _input(self, tensor: torch.Tensor) -> torch.Tensor:
        # Off the graph, and one object for layers that follow each other with one input: they share its products.
        if self._last is None or self._last[0] is not tensor:
            self._last = (tensor, tensor.detach())
        return self._last[1]

    @property
    def head(self) -> nn.Linear | None:
        """The layer that makes logits of hidden states, if it is known."""
        return self._head

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
        """Components whose gradients come as factors from every one of their sites."""
        possible = {site.components["weight"] for site in self.sites if "weight" in site.components and _factors(site)}
        formed = {c for site in self.sites for n, c in site.components.items() if n != "weight" or not _factors(site)}
        return frozenset(possible - formed - self.whole_model)

    def forward_only(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [1, S, V] with the graph of a pass but without drawing anything off."""
        self._rows = Rows([input_ids.shape[1]], input_ids.shape[1])
        try:
            self._last = None
            logits: torch.Tensor = self.model(input_ids=input_ids, **self._arguments(input_ids.shape)).logits
            return logits
        finally:
            self._clear()

    def _emit(self, site: Site, memory: Any, gradient: Any) -> None:
        assert self._rows is not None and self._sink is not None
        site.emit(memory, gradient, self._rows, self._sink)

    def backward(self, samples: Sequence[EncodedSample], sink: Sink) -> list[float]:
        """Draws off every component's gradient of every sample; returns the losses (nats per response token).

        Samples are padded on the right, where causal attention cannot see the padding, and no mask is passed: what a
        sample computes is what it computes alone, up to the rounding of matrix products of another shape.
        """
        if len(samples) > 1 and not self.batchable:
            raise UnbatchableError
        lengths = [sample.length for sample in samples]
        padded = max(lengths)
        input_ids = torch.zeros(len(samples), padded, dtype=torch.int64)
        targets, positions, counts = [], [], []
        for row, sample in enumerate(samples):
            input_ids[row, : sample.length] = torch.from_numpy(sample.input_ids)
            labels = torch.from_numpy(sample.labels)
            kept = (labels[1:] != IGNORED).nonzero()[:, 0]  # position t predicts label t + 1
            positions.append(kept + row * padded)
            targets.append(labels[1:][kept])
            counts.append(len(kept))
        keep = torch.cat(positions).to(self.device)
        self._rows, self._sink = Rows(lengths, padded), sink
        self._rows.kept = counts if self._head is not None else None
        self._keep = keep if self._head is not None else None
        try:
            with torch.enable_grad():
                logits = self.model(input_ids=input_ids.to(self.device), **self._arguments(input_ids.shape)).logits
            logits = logits.reshape(-1, logits.shape[-1])
            losses, gradient = _logit_gradient(
                logits.detach() if self._head is not None else logits.detach()[keep],
                torch.cat(targets).to(self.device),
                counts,
            )
            if self._head is None:
                gradient = torch.zeros_like(logits).index_copy_(0, keep, gradient)
            torch.autograd.backward(logits, gradient)
            self._finish()
        finally:
            self._clear()
        return losses.tolist()

    def _finish(self) -> None:
        self._busy = True  # a local site repeats a forward pass, which must not be drawn off again
        try:
            for site, memory, found in self._waiting:
                self._emit(site, memory, found)
        finally:
            self._busy = False
        for number in self.whole_model:
            parameter = self.parameters[number]
            if parameter.grad is not None:
                assert self._sink is not None
                self._sink.dense(number, 0, parameter.grad)
                parameter.grad = None

    def _arguments(self, shape: torch.Size) -> dict[str, Any]:
        accepted = inspect.signature(self.model.forward).parameters
        arguments: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted or "kwargs" in accepted else {}
        if shape[0] > 1 and self._learned_positions and "position_ids" in accepted:
            # Left alone, models look up one row of positions for the whole batch, which sums its samples' gradients.
            arguments["position_ids"] = torch.arange(shape[1], device=self.device).expand(shape)
        return arguments

    @property
    def _learned_positions(self) -> bool:
        return sum(isinstance(site, EmbeddingSite) for site in self.sites) > 1


def _factors(site: Site) -> bool:
    return isinstance(site, (MatrixSite, EmbeddingSite))


def _logit_gradient(
    logits: torch.Tensor, targets: torch.Tensor, counts: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [samples] and d loss / d logits [N, V] = (softmax - one-hot) / n, with n the sample's labelled tokens."""
    scores = logits.to(wide(logits.dtype))
    rows = scores.new_tensor([1 / count for count in counts]).repeat_interleave(
        torch.tensor(counts, device=scores.device), output_size=len(targets)
    )
    gradient = scores.softmax(-1)  # fused; log-sum-exp follows from the largest entry, at a tenth of its own cost
    normaliser = scores.amax(-1, keepdim=True) - gradient.amax(-1, keepdim=True).log()
    losses = torch.stack(
        [part.sum() for part in ((normaliser - scores.gather(1, targets[:, None]))[:, 0] * rows).split(counts)]
    )
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    return losses, gradient.mul_(rows[:, None]).to(logits.dtype)
