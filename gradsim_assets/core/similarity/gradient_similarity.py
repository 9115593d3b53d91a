"""`gradient_similarity`: cosines derived from dot products, so no GPU is needed."""

import numpy as np
import polars as pl

from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas


def gradient_similarity(pairs: PairProducts) -> pl.DataFrame:
    """Cosine of every pair per component (model order), and last for the full gradient; null where undefined."""
    count = len(pairs.components) + 1
    values = np.vstack([pairs.similarity, pairs.full_similarity]).T.ravel()
    components = pl.Series("component", [*pairs.components, schemas.FULL_GRADIENT], dtype=pl.String)
    base = pairs.candidates.frame.with_columns(
        pl.lit(components.to_list(), dtype=pl.List(pl.String)).alias("component")
    )
    frame = base.explode("component") if len(base) else base.with_columns(pl.lit("").alias("component"))
    assert len(frame) == len(pairs.candidates.variant) * count
    return schemas.GRADIENT_SIMILARITY.enforce(
        frame.with_columns(pl.Series("similarity", values, dtype=pl.Float64, nan_to_null=True))
    )
