"""Random dot products as they come from real gradients, with the accidents that analyses must survive."""

import random

import numpy as np
import polars as pl

from gradsim_assets import schemas
from gradsim_assets.core.components import parameters_per_component


def block_names(blocks: int) -> list[str]:
    """Component names of an OLMo-like model."""
    kinds = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    return ["model.embed_tokens.weight", *(f"model.layers.{b}.{kind}.weight" for b in range(blocks) for kind in kinds)]


def products(
    variants: int, candidates: int, components: list[str], seed: int = 0, accidents: bool = False
) -> pl.DataFrame:
    """A `dot_products` table from random 6-dimensional gradients of small whole numbers, so ties happen by themselves.

    With accidents some gradients are zero, some rows, pairs and own originals are missing, and one variant stands alone.
    """
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    ids = [f"lima_{i * 3 % 17}_{i}" for i in range(variants)]
    shape = (variants, len(components), 6)
    originals = rng.integers(-2, 3, shape).astype(float)
    variant = np.where(rng.random(shape) < 0.7, originals, rng.integers(-2, 3, shape))
    if accidents:
        originals[rng.random(shape[:2]) < 0.05] = 0
        variant[rng.random(shape[:2]) < 0.05] = 0
        originals[0] = 0  # a whole gradient without length
    else:
        originals[..., 0] += 0.5
        variant[..., 0] += 0.5
    rows = []
    for v, variant_id in enumerate(ids):
        others = draw.sample([o for o in range(variants) if o != v], min(candidates, variants) - 1)
        place = draw.randrange(len(others) + 1)
        for o in [*others[:place], v, *others[place:]]:
            if accidents and (draw.random() < 0.05 or (v == 1 and o != v) or (v == 2 and o == v)):
                continue
            for c, component in enumerate(components):
                if accidents and draw.random() < 0.01:
                    continue
                a, b = variant[v, c], originals[o, c]
                rows.append((variant_id, ids[o], component, float(a @ b), float(a @ a), float(b @ b)))
    return pl.DataFrame(rows, schema=list(schemas.DOT_PRODUCTS.columns), orient="row")


def sizes(components: list[str], seed: int = 0) -> pl.DataFrame:
    """A `parameters_per_component` table in which many components share a size."""
    draw = random.Random(seed)
    return parameters_per_component({name: draw.choice([64, 128, 4096]) for name in components})
