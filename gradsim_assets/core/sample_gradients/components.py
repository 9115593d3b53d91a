"""Components: the named parameter tensors that gradients are taken of."""

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
