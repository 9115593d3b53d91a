"""Activation checkpointing (Chen et al. 2016): of each block only what goes in is kept, the rest is computed again.

The way back computes a block once more before it goes through it, so that a pass holds the activations of one block at a
time, for one more forward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class ActivationCheckpointing:
    """The blocks of a model, and for which batches their activations are not kept."""

    def __init__(self, model: nn.Module) -> None:
        self.blocks = outermost_blocks(model)
        #: Padded tokens of a batch beyond which activations are computed again; None: they are always kept.
        self.beyond: int | None = None

    def forbid(self) -> None:
        """Has activations kept, however many there are."""
        self.blocks, self.beyond = [], None

    def of_hooks(self, tokens: int) -> AbstractContextManager[None]:
        """For a pass with hooks inside of the blocks, over a batch of so many padded tokens.

        They see the second time only, when what they have registered is gone through at once and freed.
        """
        return self._of(tokens, reentrant=True)

    def of_plain(self, tokens: int) -> AbstractContextManager[None]:
        """For plain autograd over so many tokens; whoever waits for a parameter's gradient gets it whole."""
        return self._of(tokens, reentrant=False)

    @contextmanager
    def always(self) -> Iterator[None]:
        """For every batch in the meantime."""
        before, self.beyond = self.beyond, 0
        try:
            yield
        finally:
            self.beyond = before

    def _of(self, tokens: int, reentrant: bool) -> AbstractContextManager[None]:
        wanted = self.beyond is not None and tokens > self.beyond
        return _checkpointed(self.blocks, reentrant) if wanted else nullcontext()


def outermost_blocks(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers itself would checkpoint; none in a model of another make."""
    try:
        from transformers.modeling_layers import GradientCheckpointingLayer
    except ImportError:
        return []
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():  # whoever owns a module comes before it
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            found.append(module)
            inside |= {id(part) for part in module.modules()}
    return found


@contextmanager
def _checkpointed(blocks: list[nn.Module], reentrant: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for block in blocks:
            call = partial(_call, block.forward, reentrant)
            stack.enter_context(replaced_forward(block, call))
        yield


def _call(forward: Callable[..., Any], reentrant: bool, *args: Any, **kwargs: Any) -> Any:
    """One call of a block."""
    # What comes by name is the same for all blocks (masks, positions): no gradient is taken through it.
    if not torch.is_grad_enabled() or not args or _need_gradient([args[1:], kwargs]):
        return forward(*args, **kwargs)
    first, *others = args
    if reentrant and not first.requires_grad:  # else nobody would come back for the block's own parameters
        first = first.detach().requires_grad_(True)
    run = partial(forward, **kwargs)
    return checkpoint(run, first, *others, use_reentrant=reentrant, preserve_rng_state=False)


def _need_gradient(values: Any) -> bool:
    if isinstance(values, torch.Tensor):
        return values.requires_grad
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return False
    return any(map(_need_gradient, values))


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Has calls of a module go to another function in the meantime; hooks on the module stay around it."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward  # the instance's own comes before that of its class
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before
