"""A model's layers over several GPUs of one machine, by accelerate: for weights that do not fit on one."""

from collections.abc import Sequence
from typing import Any

from gradsim_assets.core.errors import InputError, first_line

#: Token ids that a spread model is tried with.
_TRIED = 4

#: What accelerate calls the devices of a model's layers.
_SPREAD = "hf_device_map"


def spread_over(model_id: str, model: Any, devices: Sequence[str]) -> None:
    """Moves the layers of a model that is in the host's memory to several devices, each whole to one of them, neighbours together.

    Inputs are brought from layer to layer by hooks, and logits back to where the token ids were. A model that is spread already
    stays as it is.

    Raises:
        InputError: accelerate is not installed, or the model's layers cannot be on several devices.
    """
    import torch

    from gradsim_assets.core.memory import ran_out
    from gradsim_assets.core.models.positions import logits_of
    from gradsim_assets.core.sample_gradients.pieces import UnspreadableError
    from gradsim_assets.core.sample_gradients.quantised_linear import how_quantised

    if how_quantised(model):
        raise _refused(model_id, devices, "its base is in few bits, which is loaded onto one GPU")
    if hasattr(model, _SPREAD):
        return
    try:
        _dispatch(model, device_map(model, devices))
        with torch.no_grad():
            logits_of(model, torch.zeros(1, _TRIED, dtype=torch.int64))
    except UnspreadableError as error:
        raise _refused(model_id, devices, str(error)) from error
    except ImportError as error:
        raise InputError(
            "compute.devices needs the package accelerate, which is not installed; install gradsim[compute]."
        ) from error
    except RuntimeError as error:
        vars(model).pop(_SPREAD, None)  # another try is to be refused again
        if ran_out(error):
            raise InputError(
                f"{model_id} does not fit on {len(devices)} GPUs ({first_line(error)}); raise compute.devices, or give it fewer bits "
                'with dtype = "bfloat16".'
            ) from error
        raise _refused(model_id, devices, first_line(error).rstrip(".")) from error


def device_map(model: Any, devices: Sequence[str]) -> dict[str, str]:
    """The device of every layer, and of every module beside them, by name: the fullest device has as little as can be.

    Raises:
        UnspreadableError: see `pieces_of`.
    """
    from gradsim_assets.core.sample_gradients.pieces import balanced, bytes_of, pieces_of

    pieces = pieces_of(model)
    places = balanced([bytes_of(piece) for piece in pieces], len(devices))
    return {name: devices[place] for piece, place in zip(pieces, places, strict=True) for name, _ in piece}


def _dispatch(model: Any, places: dict[str, str]) -> None:
    from accelerate import dispatch_model
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    first = next(iter(places.values()))
    # Caches have a device of their own for every layer; what has none is moved.
    kept = getattr(model, "_skip_keys_device_placement", None)
    dispatch_model(model, places, main_device=first, skip_keys=kept, force_hooks=True)
    # Buffers of modules that are not moved as a whole, since layers lie in them, go where the token ids are.
    for name, module in model.named_modules():
        if module._buffers and not hasattr(module, "_hf_hook") and not _is_placed(name, places):
            add_hook_to_module(module, AlignDevicesHook(first))


def _is_placed(name: str, places: dict[str, str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _refused(model_id: str, devices: Sequence[str], why: str) -> InputError:
    return InputError(f"{model_id} cannot be spread over {len(devices)} GPUs: {why}; set compute.devices = 1 for it.")
