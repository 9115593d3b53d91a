"""Components: the named parameter tensors that gradients are taken of."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from gradsim_assets.core.errors import InputError


def trainable_components(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """(name, parameter) of every trainable tensor in model order; tied weights once, under their first name.

    Raises:
        InputError: nothing is trainable.
    """
    components = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not components:
        raise InputError("the model has no trainable parameters, so there are no gradients; unfreeze some of them.")
    return components


def choose_components(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Takes the gradients from all components whose names no pattern matches; without patterns from none.

    What is left out has no hooks and is no part of any gradient, and autograd goes back no further than to the first that
    is not.

    Raises:
        InputError: a pattern matches no component.
    """
    if not patterns:
        return
    components = trainable_components(model)
    chosen = _matching([name for name, _ in components], patterns)
    for name, parameter in components:
        parameter.requires_grad_(name in chosen)


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The names that any of some patterns matches, as the shell matches them (case counts)."""
    found: set[str] = set()
    for pattern in patterns:
        own = {name for name in names if fnmatchcase(name, pattern)}
        if not own:
            raise InputError(
                f'components: the pattern "{pattern}" matches none of the {len(names)} components (such as {names[0]} and '
                f"{names[-1]}); correct it under [[models]], or leave it out."
            )
        found |= own
    return found
