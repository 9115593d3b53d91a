"""What a component's name says: its type, its depth, and the family that plots colour it by."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from gradsim_assets import schemas
from gradsim_assets.core.errors import InputError

#: Families of component types, in the order of legends.
FAMILIES = ("attention", "mlp", "norm", "embedding", "other")

# Checked in this order: `post_attention_layernorm` is a norm, `self_attn.q_norm` too.
_FAMILY_PATTERNS = (
    ("norm", r"norm|(^|\.)ln_"),
    ("embedding", r"embed|(^|\.)(wte|wpe|lm_head)(\.|$)"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|feed_forward|ffn|moe|expert|(^|\.)(fc\d*|dense_h_to_4h|dense_4h_to_h)(\.|$)"),
)


def depth(component: str) -> int | None:
    """The number of the block that a component stands in: the first number among the parts of its name."""
    return next((int(part) for part in component.split(".") if part.isdigit()), None)


def component_type(component: str) -> str:
    """What a component is without its block: `self_attn.q_proj`, `mlp.c_fc.bias`, `embed_tokens`.

    The ending `weight` says nothing and is left out, every other ending (`bias`) stays. Numbers inside a block
    (experts) are left out too, so that all experts' tensors of one kind share a type.
    """
    parts = component.split(".")
    endings = [] if parts[-1] == "weight" else parts[-1:]
    path = parts[:-1] if len(parts) > 1 else []
    block = next((i for i, part in enumerate(path) if part.isdigit()), None)
    inside = [part for part in path[block + 1 :] if not part.isdigit()] if block is not None else path[-1:]
    if block is None and endings and endings != ["bias"]:
        inside = []  # a bare parameter of the model itself: its own name says more than its owner's
    return ".".join(inside + endings) or component


def family(component_type: str) -> str:
    """One of `FAMILIES` for a component type."""
    return next((name for name, pattern in _FAMILY_PATTERNS if re.search(pattern, component_type)), "other")


def component_columns(components: Iterable[str], parameters: pl.DataFrame | None = None) -> pl.DataFrame:
    """The columns component, component_type, depth, parameters for components in the order given.

    `parameters` is a table with `component` and `parameters`; where it is absent or silent, the column is null.
    """
    names = list(components)
    sizes = {} if parameters is None else dict(parameters.select("component", "parameters").iter_rows())
    return pl.DataFrame(
        {
            "component": names,
            "component_type": [component_type(name) for name in names],
            "depth": [depth(name) for name in names],
            "parameters": [sizes.get(name) for name in names],
        },
        schema={"component": pl.String, "component_type": pl.String, "depth": pl.Int32, "parameters": pl.Int64},
    )


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
