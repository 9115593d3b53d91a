"""Adapters of PEFT in the models that they were trained over: with the very tensors of their files, or refused."""

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import ADAPTER, Revision, file_of
from gradsim_assets.core.sample_gradients.quantised_linear import quantised_layers

#: The kinds of adapters whose gradients and loading the tests hold to be right. Others keep a part of themselves outside of the
#: layers (prompts, routers between experts), which would be lost without a word.
KINDS = ("LORA", "IA3", "LOHA", "LOKR", "LN_TUNING", "TRAINABLE_TOKENS")

#: What makes of a LoRA another model than its layers are: it depends on the prompt, on other adapters, or on copies of layers.
_BEYOND_LAYERS = ("alora_invocation_tokens", "arrow_config", "layer_replication")

#: What a LoRA is drawn by without a change of the weights beneath it; of quantised ones a change would be lost without a word.
_LEAVING_THE_BASE = (None, True, False, "gaussian", "orthogonal", "eva")

#: Files that an adapter's tensors are in; of several the first one counts, as for PEFT.
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

#: What PEFT puts before the names of a model's weights in these files.
_PREFIX = "base_model.model."


def with_adapter(base: Any, model_id: str, revision: Revision, trained: bool = True) -> Any:
    """The base with an adapter in its layers, whose tensors alone are trainable; the base is changed.

    Its tensors are those of its file, or those that PEFT draws before any training if it is not to be `trained`. The model is of
    the class that it was before: nothing is wrapped around it.

    Raises:
        InputError: the adapter is of a kind that is not supported, or its file does not hold exactly its tensors.
    """
    return _injected(base, model_id, revision, trained).get_base_model()


def merged(base: Any, model_id: str, revision: Revision, trained: bool = True) -> Any:
    """The base with an adapter added to its weights, all of them trainable; raises as `with_adapter`.

    It is merged in the precision of the base, which float32 should be: a sum in fewer bits loses what an adapter changes.
    """
    model = _injected(base, model_id, revision, trained).merge_and_unload()
    vars(model).pop("peft_config", None)
    return model.requires_grad_(True)


def _injected(base: Any, model_id: str, revision: Revision, trained: bool) -> Any:
    """PEFT's own model of a base and an adapter."""
    from peft import get_peft_model

    config = _config(model_id, revision)
    tensors = _tensors(model_id, revision) if trained else {}
    if quantised_layers(base):
        _check_over_bits(model_id, config)
    _resize(base, model_id, tensors)
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    if trained:
        _fill(model, model_id, tensors)
    dtype = base.dtype
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    return model


def _config(model_id: str, revision: Revision) -> Any:
    """The configuration of an adapter, as PEFT has it."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    file = file_of(revision, ADAPTER)
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file else {}
    kind = document.get("peft_type")
    if kind not in KINDS:
        raise InputError(
            f"{model_id} is an adapter of the kind {kind}, and supported are {', '.join(KINDS)}; merge it into its base (PEFT: "
            "merge_and_unload) and give the merged model."
        )
    if document.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(
            f"{model_id} is an adapter for {document['task_type']}, not for causal language modelling; choose another model."
        )
    if beyond := [name for name in _BEYOND_LAYERS if document.get(name)]:
        raise InputError(
            f"{model_id} is an adapter with {beyond[0]}, so that it is more than its layers, which is not supported; choose "
            "another model."
        )
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    if unknown := sorted(name for name, value in document.items() if name not in known and value):
        raise InputError(
            f"{ADAPTER} of {model_id} sets {unknown[0]}, which PEFT {peft.__version__} does not know and would go without; install "
            f"the version that saved it ({document.get('peft_version') or 'a later one'})."
        )
    made_by = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    stated = {name: value for name, value in document.items() if name in known}
    config = made_by(**made_by.check_kwargs(**stated))
    config.inference_mode = False  # which would freeze it
    config.base_model_name_or_path = None  # it is known; PEFT would look for it
    return config


def _check_over_bits(model_id: str, config: Any) -> None:
    """Raises InputError for an adapter that changes the weights beneath it, or takes their place."""
    way = getattr(config, "init_lora_weights", None)
    if way not in _LEAVING_THE_BASE:
        raise InputError(
            f"{model_id} is an adapter with init_lora_weights = {way!r}, which changes the weights of its base, and these are quantised; "
            "give a base that is not."
        )


def _tensors(model_id: str, revision: Revision) -> dict[str, Any]:
    """The tensors of an adapter's file, by the names that they have there."""
    import torch
    from safetensors.torch import load_file

    file = next((file for name in _WEIGHTS if (file := file_of(revision, name))), None)
    if file is None:
        raise InputError(f"{model_id} holds no {' and no '.join(_WEIGHTS)}; save the adapter again.")
    load = load_file if file.suffix == ".safetensors" else partial(torch.load, map_location="cpu", weights_only=True)
    found: dict[str, Any] = load(file)
    if wrong := next((name for name, tensor in found.items() if not tensor.is_floating_point()), None):
        raise InputError(
            f"{model_id}: {wrong} is of type {str(found[wrong].dtype).removeprefix('torch.')}, which has no gradient; save the "
            "adapter in a floating type."
        )
    return found


def _resize(base: Any, model_id: str, tensors: Mapping[str, Any]) -> None:
    """Gives the base as many tokens as the adapter's file has, which holds whole embeddings where it was trained with more."""
    ends = [getattr(base, f"get_{side}_embeddings")() for side in ("input", "output")]
    names = {module: name for name, module in base.named_modules() if any(module is end for end in ends)}
    stored = {
        module: next((tensors[key] for key in _stored_names(name) if key in tensors), None)
        for module, name in names.items()
    }
    rows = next((len(tensor) for tensor in stored.values() if tensor is not None), None)
    if rows is None or rows == len(ends[0].weight):
        return
    tied = ends[1] is None or ends[1].weight is ends[0].weight
    if lacking := next((names[one] for one, tensor in stored.items() if tensor is None and not tied), None):
        raise InputError(
            f"{model_id} was trained with {rows} tokens where its base has {len(ends[0].weight)}, and its file lacks {lacking}.weight "
            "for them, which would be drawn at random; save it with save_embedding_layers=True."
        )
    base.resize_token_embeddings(rows, mean_resizing=False)


def _stored_names(module: str) -> tuple[str, str]:
    """Under which names a whole weight stands in an adapter's file: of a plain layer, and of one with an adapter in it."""
    return f"{_PREFIX}{module}.weight", f"{_PREFIX}{module}.base_layer.weight"


def _fill(model: Any, model_id: str, tensors: Mapping[str, Any]) -> None:
    """Puts the tensors of an adapter's file in the place of those that PEFT has drawn.

    What the file lacks is found by what stays unwritten, since PEFT gives some tensors other names than files have.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name in sorted(own.keys() & tensors.keys()):
        if own[name].shape != tensors[name].shape:
            raise InputError(
                f"{model_id} holds {name} in another shape than its {ADAPTER} and its base ask for ({list(tensors[name].shape)}, not "
                f"{list(own[name].shape)}); is that the model that it was trained over?"
            )
    with torch.no_grad():
        for tensor in own.values():
            tensor.fill_(torch.nan)
    try:
        extra = list(set_peft_model_state_dict(model, dict(tensors)).unexpected_keys)
    except KeyError as error:
        raise _lacking(model_id, [str(error.args[0])]) from error
    filled = get_peft_model_state_dict(model, save_embedding_layers=False)
    if missing := sorted(name for name, tensor in filled.items() if name not in tensors and tensor.isnan().all()):
        raise _lacking(model_id, missing)
    if extra:
        raise InputError(
            f"{model_id} holds {_listed(extra)}, which the adapter of its {ADAPTER} does not have over its base and would go "
            "without; is that the model that it was trained over?"
        )


def _lacking(model_id: str, names: list[str]) -> InputError:
    return InputError(
        f"{model_id} lacks {_listed(names)}, which its {ADAPTER} asks for and PEFT would draw at random; save the whole adapter "
        "again, or correct the file."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
