"""Hooks on a model that collect every sample's gradients during one forward and backward pass of a batch."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.memory import ran_out
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.layers import (
    BatchRows,
    EmbeddingUse,
    MatrixUse,
    ParameterUse,
    Sink,
    UnbatchableError,
    find_use,
)
from gradsim_assets.core.sample_gradients.model_state import undisturbed
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape, PaddedBatch, loss_gradient
from gradsim_assets.core.sample_gradients.precision import wide
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets.core.sample_gradients.scaled_layers import find_scaling_use, own_parameters
from gradsim_assets.core.sample_gradients.several_devices import gathered, logits_left_in_place


class UnprovenError(Exception):
    """A batch brought a gradient to components whose gradients were never compared with those of plain autograd."""

    def __init__(self, components: set[int]) -> None:
        super().__init__(f"{len(components)} components")
        self.components = components


class UsedElsewhereError(Exception):
    """A batch used weights outside of the layers that are watched for them, so that a summand of their gradients is missing."""

    def __init__(self, components: set[int]) -> None:
        super().__init__(f"{len(components)} components")
        self.components = components


@dataclass
class _Passing:
    """The batch that is on its way through the model, as the hooks see it."""

    rows: BatchRows
    #: Where gradients go; None in a forward pass without a backward one.
    sink: Sink | None = None
    #: int64 [B * L]: positions of the flattened batch that the head makes logits of; None for all.
    predicting: torch.Tensor | None = None
    #: Whether what hooks collect is only to be looked at.
    proving: bool = False
    #: Components that autograd gives a gradient at every use, be it inside of a watched layer.
    trainable: frozenset[int] = frozenset()


class GradientHooks:
    """Hooks on every use of a model's trainable parameters. Use `with hooks.open():` around calls of `backward`.

    What has a closed form is made of what passes by, and is frozen inside of its layers. All else is left to autograd, which
    brings up the gradient of one sample at a time. So it tells, too, where a weight is used outside of its layers, which
    some model may do for few texts alone.

    `device` is where token ids go. A model may be spread over several: then every gradient comes up on the device of its weight.

    Raises:
        InputError: nothing is trainable.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.model, self.device = model, torch.device(device)
        named = trainable_components(model)
        #: Names and parameters of the components, in model order.
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        #: The same gradients, slowly; it also knows the state that samples meet the model in.
        self.plain = PlainAutograd(model, self.parameters, self.device)
        #: Whether several samples can go through at a time, and whether it was found that they must not.
        self.batchable, self.batches_forbidden = True, False
        self.uses: list[ParameterUse] = []
        #: Components whose gradients autograd forms.
        self.by_autograd: set[int] = set()
        #: Components of which no gradient but zero was compared with that of plain autograd.
        self.unproven = set(range(len(named)))
        #: Components with a layer that was seen to take other rows than one for every token, in other calls at every batch.
        self.irregular: set[int] = set()
        #: How often the way of collecting was changed.
        self.changes = 0
        #: The layer that makes logits of hidden states, if it is known.
        self.head = _head_of(model)
        self._passing: _Passing | None = None
        self._find_uses()

    def _find_uses(self) -> None:
        numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        without: set[int] = set()
        for module in self.model.modules():
            own = {name: numbers[id(p)] for name, p in own_parameters(module).items() if id(p) in numbers}
            use = (find_use(module, own) or find_scaling_use(module, own)) if own else None
            if use is None:
                without |= set(own.values())
            else:
                use.labelled = module is self.head
                self.uses.append(use)
        # One that a module of another kind owns as well (the head's bias, in BERT) may still be used by its layer alone.
        without -= {component for use in self.uses for component in use.components.values()}
        if without:
            self.demote(without)

    def demote(self, components: set[int]) -> None:
        """Leaves `components` to autograd, which knows no batches of samples."""
        # A component is collected at all of its uses or at none: a sum must not lose a summand or count one twice.
        self.changes += 1
        self.by_autograd |= components
        self.batchable = False
        for use in list(self.uses):
            use.components = {n: c for n, c in use.components.items() if c not in self.by_autograd}
            if not use.components:
                self.uses.remove(use)

    def forbid_batches(self) -> None:
        """Has samples go through one by one."""
        self.changes += 1
        self.batchable, self.batches_forbidden = False, True

    def forget_head(self) -> None:
        """Has logits made of all positions, labelled or not."""
        self.changes += 1
        self.head = None
        for use in self.uses:
            use.labelled = False

    @property
    def ways(self) -> dict[str, Any]:
        """In what more general ways gradients are taken than the model's looks promise, for `take_up`."""
        return {
            "by_autograd": sorted(self.by_autograd),
            "without_head": self.head is None,
            "batches_forbidden": self.batches_forbidden,
        }

    def take_up(self, ways: dict[str, Any]) -> None:
        """Goes on in the ways that an earlier try has found out to be needed."""
        if missing := set(ways["by_autograd"]) - self.by_autograd:
            self.demote(missing)
        if ways["without_head"] and self.head is not None:
            self.forget_head()
        if ways["batches_forbidden"]:
            self.forbid_batches()

    def leave_formed(self, component: int) -> None:
        """Has the gradient of a component formed as it comes, for its factors have no rows to be told beforehand."""
        self.changes += 1
        self.irregular.add(component)

    @property
    def devices(self) -> list[torch.device]:
        """Devices of the components."""
        return [parameter.device for parameter in self.parameters]

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
        """Components whose gradients come as factors, with a row for every token, from every one of their uses."""
        possible = {use.components["weight"] for use in self.uses if "weight" in use.components and _factors(use)}
        formed = {c for use in self.uses for n, c in use.components.items() if n != "weight" or not _factors(use)}
        return frozenset(possible - formed - self.by_autograd - self.irregular)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hooks in place and parameters frozen; everything is as it was afterwards."""
        ends: list[Callable[[], None]] = []
        with undisturbed(self.model), logits_left_in_place(self.model):
            try:
                for parameter in self.model.parameters():
                    parameter.requires_grad_(False)
                for use in self.uses:
                    ends.append(use.module.register_forward_pre_hook(partial(self._enter, use)).remove)
                    ends.append(use.watch(partial(self._seen, use)))
                    ends.append(use.module.register_forward_hook(partial(self._leave, use)).remove)
                if self.head is not None:
                    ends.append(self.head.register_forward_pre_hook(self._select).remove)
                yield
            finally:
                for end in ends:
                    end()
                self.plain.state.restore()

    def _enter(self, use: ParameterUse, *called: object) -> None:
        self._set_trainable(use, False)

    def _leave(self, use: ParameterUse, *called: object) -> None:
        self._set_trainable(use, True)

    def _set_trainable(self, use: ParameterUse, trainable: bool) -> None:
        """Freezes or thaws what is collected at a use."""
        if self._passing is not None:
            for number in use.components.values():
                if number not in self._passing.trainable:
                    self.parameters[number].requires_grad_(trainable)

    def _select(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Logits at labelled positions only: the loss does not see the others, and a vocabulary is wide.
        if self._passing is None or self._passing.predicting is None:
            return args
        hidden = args[0]
        places = self._passing.predicting.to(hidden.device)
        selected = hidden.reshape(-1, hidden.shape[-1]).index_select(0, places)
        return (selected[None], *args[1:])

    def _seen(self, use: ParameterUse, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Has the use emit when the gradient of `output` comes up; returns what goes on in its place."""
        # Without a graph it is a use that calls its own module.
        if self._passing is None or not torch.is_grad_enabled() or not isinstance(given, torch.Tensor):
            return output
        emit = partial(self._emit, use, given.detach())
        if isinstance(use, EmbeddingUse) and self._passing.rows.serves_all(output):
            output = output.expand(self._passing.rows.samples, -1, -1)  # one each, or its gradient were a sum over them
        if output.requires_grad:
            output.register_hook(emit)
            return output
        # The first layers: with frozen weights the graph begins here, and may go on with a change in place.
        first = output.detach().requires_grad_(True)
        first.register_hook(emit)
        return first.clone()

    def _emit(self, use: ParameterUse, given: torch.Tensor, gradient: torch.Tensor) -> None:
        # By way of `self`: a graph that held on to its batch would be a cycle, freed only when the collector runs.
        assert self._passing is not None
        assert self._passing.sink is not None
        try:
            # A layer may have had its input brought from another device behind the hook that saw it.
            use.emit(given.to(gradient.device), gradient, self._passing.rows, self._passing.sink)
        except UnbatchableError:
            raise
        except RuntimeError as error:
            # A layer that is not what it looks like: that nothing comes of it will show.
            if not self._passing.proving or ran_out(error):
                raise

    @contextmanager
    def _pass(self, passing: _Passing) -> Iterator[None]:
        """One batch through the model in its fresh state."""
        self.plain.state.restore()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self._passing = passing
        try:
            yield
        finally:
            self._passing = None
            for parameter in self.parameters:
                parameter.requires_grad_(False)

    def forward_only(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits [1, T, V] of one sample with the graph of a pass, of which no gradient is taken."""
        length = input_ids.shape[1]
        rows = BatchRows(BatchShape((length,), (length,)), head_sees_labelled=False)
        passing = _Passing(rows, trainable=frozenset(self.by_autograd))
        with self._pass(passing), self.plain.checkpointing.of_hooks(length):
            logits: torch.Tensor = self.model(input_ids=input_ids, **self._arguments()).logits
        return logits

    def backward(self, batch: PaddedBatch, sink: Sink, proving: bool = False) -> torch.Tensor:
        """Collects every component's gradient of every sample; returns the losses [B] (nats per response token).

        Nothing waits for the device, unless a component is unproven and takes part: the losses are on it.

        Raises:
            UnbatchableError: there are several samples, and they cannot be told apart.
            UnprovenError: a component got a gradient that was never compared with plain autograd's, and this is not the
                pass that does so (`proving`).
            UsedElsewhereError: a weight was used outside of its layers; a pass that is proving compares what came of that.
        """
        if batch.shape.samples > 1 and not self.batchable:
            raise UnbatchableError
        known = self.head is not None
        # Autograd tells which components took part, whatever the hooks saw, and costs nothing where none did.
        watched = set() if proving else self.unproven - self.by_autograd
        trainable = frozenset(self.by_autograd | watched)
        rows, predicting = BatchRows(batch.shape, known), batch.predicting if known else None
        padded = batch.shape.samples * batch.shape.tokens
        passing = _Passing(rows, sink, predicting, proving, trainable)
        with self._pass(passing), self.plain.checkpointing.of_hooks(padded):
            losses = self._forward_and_backward(batch)
        elsewhere = self._any_of(set(range(len(self.names))) - trainable, look=not proving)
        if unproven := self._any_of(watched):
            raise UnprovenError(unproven)
        if elsewhere:
            raise UsedElsewhereError(elsewhere)
        for number, gradient in self._taken(self.by_autograd):
            if batch.shape.samples > 1:
                raise UnbatchableError
            sink.formed(number, gradient[None])
        return losses

    def _any_of(self, numbers: set[int], look: bool = True) -> set[int]:
        """Those of some components that autograd gave a gradient other than zero; none if nobody is to `look` at them."""
        taken = list(self._taken(numbers))
        if not taken or not look:
            return set()
        any_number = gathered([gradient.any() for _, gradient in taken], 0).tolist()
        return {number for (number, _), one in zip(taken, any_number, strict=True) if one}

    def _taken(self, numbers: set[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """The gradients that autograd left at some components, which have them no longer then."""
        for number in numbers:
            gradient, self.parameters[number].grad = self.parameters[number].grad, None
            if gradient is not None:
                yield number, gradient

    def _forward_and_backward(self, batch: PaddedBatch) -> torch.Tensor:
        """Losses [B] of a batch whose gradients have come by at the hooks."""
        with torch.enable_grad():
            logits = self.model(input_ids=batch.input_ids, **self._arguments()).logits
            logits = logits.reshape(-1, logits.shape[-1])
        predicting, shares = batch.predicting.to(logits.device), batch.shares.to(logits.device)
        selected = logits.detach() if self.head is not None else logits.detach().index_select(0, predicting)
        losses, gradient = loss_gradient(selected, batch.labels_for(selected), shares, batch.shape.samples)
        if self.head is None:  # what is repeated to fill up has a gradient of zero
            gradient = torch.zeros_like(logits).index_add_(0, predicting, gradient)
        torch.autograd.backward(logits, gradient)
        return losses

    def _arguments(self) -> dict[str, Any]:
        """What the model is called with beside token ids."""
        accepted = inspect.signature(self.model.forward).parameters
        return {"use_cache": False} if "use_cache" in accepted or "kwargs" in accepted else {}


def _head_of(model: nn.Module) -> nn.Linear | None:
    getter = getattr(model, "get_output_embeddings", None)
    found = getter() if getter else None
    return found if isinstance(found, nn.Linear) else None


def _factors(use: ParameterUse) -> bool:
    return isinstance(use, (MatrixUse, EmbeddingUse))
