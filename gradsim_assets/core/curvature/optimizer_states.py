"""Second moments out of the state of the optimizer that trained a model, in the layouts that trainers save.

PyTorch numbers parameters in the order of its parameter groups; newer versions name them, too, where the optimizer was given
names. transformers' Trainer makes two groups, of parameters with and without weight decay. Consolidated states of sharded
training (FSDP, torch.distributed.checkpoint) have the parameters' names for keys.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gradsim_assets.core.curvature.component_curvature import ComponentCurvature
from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.sample_gradients.components import trainable_components

#: What wrappers put before or into the names of parameters.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")

#: Where a document holds the optimizer's state beside other things.
_NESTED = ("optimizer", "optimizer_state_dict", "optim")


def second_moments(path: Path, model: torch.nn.Module) -> dict[str, ComponentCurvature]:
    """v of every trainable parameter, as the optimizer divides by it at its last step, by the name of the component.

    Bias correction is that of torch's Adam and AdamW: v = exp_avg_sq / (1 - beta2^step), with max_exp_avg_sq in the place of
    exp_avg_sq where it was trained with amsgrad.

    Raises:
        InputError: the file is no state of an Adam, or not of this model.
    """
    document = _read(path)
    state, groups = document["state"], document["param_groups"]
    keys = _keys_by_name(path, state, groups, model)
    options = {key: group for group in groups for key in group["params"]}
    names = {parameter: name for name, parameter in model.named_parameters()}  # components of adapters have other ones
    found = {}
    for component, parameter in trainable_components(model):
        key = keys[names[parameter]]
        found[component] = _curvature(path, names[parameter], parameter, state.get(key), options.get(key, groups[0]))
    return found


def moments_of(moments: Mapping[str, ComponentCurvature], components: Iterable[str]) -> dict[str, ComponentCurvature]:
    """Those of `second_moments` that components ask for.

    Raises:
        InputError: the optimizer has not trained one of them, as where an adapter is studied merged into its base.
    """
    found = {}
    for name in components:
        if name not in moments:
            raise InputError(
                f"the optimizer state has no second moments of {name}, which it has not trained (but {next(iter(moments))}); leave "
                "optimizer_state out, or components of its entry under [[models]]."
            )
        found[name] = moments[name]
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no optimizer state {path}; correct optimizer_state under [[models]].") from error
    except Exception as error:  # pickle, zipfile and torch have no common kind of error
        raise InputError(
            f"optimizer state {path} cannot be read by torch.load ({first_line(error).rstrip('.')}); save the optimizer's "
            "state_dict() with torch.save."
        ) from error
    for name in _NESTED:
        if isinstance(document, dict) and "state" not in document and isinstance(document.get(name), dict):
            document = document[name]
    if not isinstance(document, dict) or not document.get("state") or not document.get("param_groups"):
        raise InputError(
            f"{path} holds no state of an optimizer (state and param_groups); save the optimizer's state_dict() with torch.save."
        )
    return document


def _keys_by_name(
    path: Path, state: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]], model: torch.nn.Module
) -> dict[str, Any]:
    """The key of every trainable parameter in the state."""
    given = [key for group in groups for key in group["params"]]
    if all(isinstance(key, str) for key in state):
        return _by_name(path, {key: key for key in state}, model)
    if all("param_names" in group for group in groups):
        return _by_name(path, dict(zip((n for g in groups for n in g["param_names"]), given, strict=True)), model)
    return _by_order(path, state, groups, given, model)


def _by_name(path: Path, keys: Mapping[str, Any], model: torch.nn.Module) -> dict[str, Any]:
    plain = {_plain(name): key for name, key in keys.items()}
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            known = next((plain[alias] for alias in aliases[id(parameter)] if alias in plain), None)
            if known is None:
                raise InputError(
                    f"optimizer state {path} knows no parameter {name} (but {next(iter(keys))}); give the state of the optimizer "
                    "that trained this model."
                )
            found[name] = known
    return found


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def _by_order(
    path: Path,
    state: Mapping[Any, Any],
    groups: Sequence[Mapping[str, Any]],
    given: Sequence[Any],
    model: torch.nn.Module,
) -> dict[str, Any]:
    """Parameters in the order in which they were given to the optimizer, as far as shapes agree with it."""
    for order in _orders([len(group["params"]) for group in groups], model):
        pairs = list(zip(order, given, strict=True))
        if all(key not in state or _shape(state[key]) == tuple(parameter.shape) for (_, parameter), key in pairs):
            return {name: key for (name, _), key in pairs}
    count = sum(parameter.requires_grad for parameter in model.parameters())
    raise InputError(
        f"optimizer state {path} does not fit the model: it has {len(given)} parameters in {len(groups)} groups, and the model's "
        f"{count} trainable ones have other shapes in every order that torch and transformers' Trainer give them; save the state "
        "of an optimizer that was given named parameters."
    )


def _orders(sizes: list[int], model: torch.nn.Module) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
    """Orders of the trainable parameters that go with parameter groups of these sizes."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if sizes == [len(trainable)]:
        yield trainable
    for decay in _decaying(model):
        groups = [[one for one in trainable if (one[0] in decay) is which] for which in (True, False)]
        if [len(group) for group in groups] == sizes:
            yield groups[0] + groups[1]


def _decaying(model: torch.nn.Module) -> Iterator[set[str]]:
    """Names of parameters that transformers' Trainer has decay: by its own rule, and by that of versions before it."""
    from transformers import Trainer
    from transformers.trainer_pt_utils import get_parameter_names

    yield set(Trainer.get_decay_parameter_names(None, model))  # which uses nothing of the trainer itself
    yield {name for name in get_parameter_names(model, [torch.nn.LayerNorm]) if "bias" not in name}


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    found = entry.get("exp_avg_sq")
    return tuple(found.shape) if isinstance(found, torch.Tensor) else ()


def _curvature(
    path: Path, name: str, parameter: torch.nn.Parameter, entry: Mapping[str, Any] | None, group: Mapping[str, Any]
) -> ComponentCurvature:
    """v of one parameter."""
    moments = entry and entry.get("max_exp_avg_sq", entry.get("exp_avg_sq"))
    if not entry or not isinstance(moments, torch.Tensor) or "betas" not in group or "step" not in entry:
        raise InputError(
            f"optimizer state {path} has no second moments of {name} (exp_avg_sq, step, betas); give that of an Adam or AdamW "
            "that trained this parameter, or leave optimizer_state out."
        )
    if moments.shape != parameter.shape:
        raise InputError(
            f"optimizer state {path}: {name} has shape {list(moments.shape)} there and {list(parameter.shape)} in the model; give "
            "the state of the optimizer that trained this model, in whole (consolidated)."
        )
    step, beta = float(entry["step"]), float(group["betas"][1])
    corrected = moments.to(torch.float64) / (1 - beta**step)
    if not (step > 0 and bool(corrected.isfinite().all()) and bool((corrected >= 0).all())):
        raise InputError(f"optimizer state {path}: the second moments of {name} are no moments (step {step:g}).")
    return ComponentCurvature("diagonal", corrected.float(), epsilon=float(group.get("eps", 0)) or None)
