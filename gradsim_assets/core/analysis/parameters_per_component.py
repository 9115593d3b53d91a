"""`parameters_per_component`: how the parameters are spread over the components."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.components import component_columns
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables import schemas


def parameters_per_component(sizes: Mapping[str, int | None]) -> pl.DataFrame:
    """The table `parameters_per_component` from the number of parameters of each component, in model order.

    A size of None stands for "unknown" (imported results without a config); then every share is null.
    """
    frame = component_columns(sizes)
    counts = [sizes[name] for name in frame["component"]]
    known = [count for count in counts if count is not None]
    total = sum(known) if len(known) == len(counts) else 0
    return schemas.PARAMETERS_PER_COMPONENT.enforce(
        frame.with_columns(
            pl.Series("parameters", counts, dtype=pl.Int64),
            pl.Series(
                "share", [count / total if total and count is not None else None for count in counts], dtype=pl.Float64
            ),
        )
    )


def sizes_from_config(config: Mapping[str, Any]) -> dict[str, int]:
    """Number of parameters of each component, in model order, from the content of a model's `config.json`.

    The model is laid out on the meta device: no weights are read or allocated. Tied weights count once, under their
    first name.

    Raises:
        InputError: the config names no architecture that transformers knows, or torch is not installed.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise InputError(
            "reading the components' sizes from a config.json needs torch and transformers; "
            "install them with pip install 'gradsim[compute]'."
        ) from error

    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if not model_type:
        raise InputError("the model's config names no model_type; pass the config.json of a Hugging Face causal LM.")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"the model's config (model_type {model_type!r}) is not one that transformers can lay out: {error}; "
            "pass the config.json of a causal LM, or install the transformers version it needs."
        ) from error
    model.tie_weights()
    return {name: parameter.numel() for name, parameter in model.named_parameters()}
