"""`agreement`: how well one component's similarities stand in for those of the full gradient."""

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import percentile_interval, resampled
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts, rho, rho_terms
from gradsim_assets.core.tables import schemas


def agreement(pairs: PairProducts, parameters: pl.DataFrame | None = None) -> pl.DataFrame:
    """The table `agreement`: rho of each component with its interval, in model order; null where it is undefined."""
    values = np.array([rho(row, pairs.full_similarity) for row in pairs.similarity], dtype=float)
    low, high = agreement_interval(pairs)
    frame = component_columns(pairs.components, parameters)
    columns = {"agreement": values, "agreement_low": low, "agreement_high": high}
    return schemas.AGREEMENT.enforce(
        frame.with_columns(pl.Series(name, column, nan_to_null=True) for name, column in columns.items())
    )


def agreement_interval(pairs: PairProducts) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over variants: the 95 % interval of each component's rho, two float64 arrays of length C.

    A variant is drawn with all its pairs, which share its gradient. NaN where there are fewer than two variants, or where
    rho is undefined in some resample.
    """
    count = len(pairs.candidates.variants)
    if count < 2 or not pairs.components:
        return np.full(len(pairs.components), np.nan), np.full(len(pairs.components), np.nan)
    starts = np.searchsorted(pairs.candidates.variant, np.arange(count))
    by_variant = [
        np.add.reduceat(term, starts) for row in pairs.similarity for term in rho_terms(row, pairs.full_similarity)
    ]
    sums = np.array(by_variant) @ resampled(count).T  # one product of matrices, [3 C, RESAMPLES]
    both, first, second = sums[0::3], sums[1::3], sums[2::3]
    with np.errstate(invalid="ignore", divide="ignore"):
        return percentile_interval(both / np.sqrt(first * second))
