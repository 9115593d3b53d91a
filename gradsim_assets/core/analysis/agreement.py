"""`agreement`: how well one component's similarities stand in for those of the full gradient."""

import numpy as np
import polars as pl

from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts, rho
from gradsim_assets.core.tables import schemas


def agreement(pairs: PairProducts, parameters: pl.DataFrame | None = None) -> pl.DataFrame:
    """The table `agreement`: rho of each component, in model order; null where it is undefined."""
    values = [rho(row, pairs.full_similarity) for row in pairs.similarity]
    frame = component_columns(pairs.components, parameters)
    return schemas.AGREEMENT.enforce(
        frame.with_columns(pl.Series("agreement", np.array(values, dtype=float), nan_to_null=True))
    )
