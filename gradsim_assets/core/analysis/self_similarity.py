"""`self_similarity`: similarity of each variant with its own original, and where best component and full gradient diverge."""

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import best_component
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas


def self_similarity(pairs: PairProducts, parameters: pl.DataFrame | None = None) -> pl.DataFrame:
    """The table `self_similarity`: all variants in input order, components in model order.

    `divergence_rank` is 1 for the variant where |best component - full gradient| is largest; equal divergences rank in
    input order, undefined ones last.
    """
    variants, slots = pairs.candidates.variants, pairs.candidates.slots[0]
    similarity = np.append(pairs.similarity, np.full((len(pairs.components), 1), np.nan), axis=1)[:, slots]
    full = np.append(pairs.full_similarity, np.nan)[slots]
    best = best_component(pairs, parameters)
    top = similarity[best] if best is not None else np.full(len(variants), np.nan)
    divergence = np.abs(top - full)
    rank = np.empty(len(variants), dtype=np.int32)
    rank[np.argsort(np.where(np.isnan(divergence), np.inf, -divergence), kind="stable")] = np.arange(len(variants)) + 1
    samples = pl.DataFrame(
        {
            "variant_id": pl.Series(variants, dtype=pl.String),
            "full_gradient": pl.Series(full, nan_to_null=True),
            "best_component": pl.Series(top, nan_to_null=True),
            "divergence": pl.Series(divergence, nan_to_null=True),
            "divergence_rank": pl.Series(rank),
        }
    )
    frame = samples.join(component_columns(pairs.components, parameters), how="cross", maintain_order="left_right")
    return schemas.SELF_SIMILARITY.enforce(
        frame.with_columns(pl.Series("similarity", similarity.T.ravel(), dtype=pl.Float64, nan_to_null=True))
    )
