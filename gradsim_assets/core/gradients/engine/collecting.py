"""Batches through the model under hooks, and what is done when the hooks turn out to be wrong for one of them."""

from collections.abc import Callable, Sequence

import torch

from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.factor_store import IrregularError
from gradsim_assets.core.sample_gradients.gradient_hooks import UnprovenError, UsedElsewhereError
from gradsim_assets.core.sample_gradients.layers import UnbatchableError


class HooksChangedError(Exception):
    """How gradients are collected has changed on the way, so that what is held does not fit what is to come."""


def collect_batches(
    verification: Verification,
    batches: Sequence[Sequence[EncodedSample]],
    collect: Callable[[int], torch.Tensor],
) -> list[torch.Tensor]:
    """What `collect` returns of every batch, by its number, called under open hooks.

    Components that a batch is the first to reach are verified on it, and the batch is collected anew.

    Raises:
        HooksChangedError: gradients are to be collected in a more general way from now on.
    """
    hooks, found = verification.hooks, list[torch.Tensor]()
    while len(found) < len(batches):
        try:
            with hooks.open():
                while len(found) < len(batches):
                    found.append(collect(len(found)))
        except UnprovenError as error:
            unproven = error.components
        except UsedElsewhereError as error:
            verification.leave_to_autograd(error.components)
            raise HooksChangedError from error
        except UnbatchableError as error:
            verification.forbid_batches()
            raise HooksChangedError from error
        except IrregularError as error:
            hooks.leave_formed(error.component)
            raise HooksChangedError from error
        else:
            break
        # Behind the pass: plain autograd wants the model for itself.
        if not verification.cover(batches[len(found)], unproven):
            raise HooksChangedError
    return found
