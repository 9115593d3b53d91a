"""What a component's name says: its type, its depth, and the family that plots colour it by."""

import re
from collections.abc import Iterable

import polars as pl

#: Families of component types, in the order of legends.
FAMILIES = ("attention", "mlp", "norm", "embedding", "other")

# Checked in this order: `post_attention_layernorm` is a norm, `self_attn.q_norm` too.
_FAMILY_PATTERNS = (
    ("norm", r"norm|(^|\.)ln_"),
    ("embedding", r"embed|(^|\.)(wte|wpe|lm_head)(\.|$)"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|feed_forward|ffn|moe|expert|(^|\.)(fc\d*|dense_h_to_4h|dense_4h_to_h)(\.|$)"),
)

#: Endings that say what a tensor is to its owner, wherever that stands: biases, and what PEFT has added.
_OWN_NAME = re.compile(r"bias$|lora_|ia3_|hada_|lokr_|trainable_tokens_delta$")


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
    if block is None and endings and not _OWN_NAME.match(endings[0]):
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
