"""Components: the named parameter tensors that gradients are taken of."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch

from gradsim_assets.core.errors import InputError

#: Which tensors are components: patterns of their names, none for all of them; of an adapter those that it has trained (as none
#: means, too), or all of the model that it is merged into.
Components = Literal["adapter", "merged"] | Sequence[str]

#: Parts of names that PEFT puts between those of a model: what it has wrapped, and its own name for the adapter.
_WRAPPING = frozenset({"base_layer", "default", "ln_tuning_layers", "modules_to_save", "token_adapter"})

#: What PEFT's own layers begin with, whose only tensor is `weight`.
_ADAPTER_LAYER = "lora_"


def trainable_components(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """(name, parameter) of every trainable tensor in model order; tied weights once, under their first name.

    Names are those of the model. With an adapter in it they are those of the model that it was put into, with the adapter's own
    behind them: `model.layers.3.self_attn.q_proj.lora_A`.

    Raises:
        InputError: nothing is trainable.
    """
    components = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not components:
        raise InputError("the model has no trainable parameters, so there are no gradients; unfreeze some of them.")
    if not hasattr(model, "peft_config"):
        return components
    return [(_without_wrapping(name), parameter) for name, parameter in components]


def _without_wrapping(name: str) -> str:
    """The name of a parameter without what PEFT has put into it."""
    parts = [part for part in name.split(".") if part not in _WRAPPING]
    if len(parts) > 1 and parts[-1] == "weight" and parts[-2].startswith(_ADAPTER_LAYER):
        parts.pop()
    return ".".join(parts)


def choose_components(model: torch.nn.Module, patterns: Components) -> None:
    """Takes the gradients from all components whose names no pattern matches; without patterns, or with a word for a view of an
    adapter, from none.

    What is left out has no hooks and is no part of any gradient, and autograd goes back no further than to the first that
    is not.

    Raises:
        InputError: a pattern matches no component.
    """
    if not patterns or isinstance(patterns, str):
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
