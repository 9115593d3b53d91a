"""`projected_similarity`: cosines of randomly projected full gradients."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.gradients.dot_products import pair_columns
from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.tables.schemas import PROJECTED_SIMILARITY
from gradsim_assets.core.tables.table_schema import TableSchema


def projection_frame(
    result: PassResult, setting: str, pairs: Sequence[tuple[str, str]], schema: TableSchema = PROJECTED_SIMILARITY
) -> pl.DataFrame:
    """The table `projected_similarity/<setting>`, or another one of its columns: pairs in order, proportions ascending; undefined
    cosines are null."""
    proportions = sorted(result.projected[setting])
    similarity = np.stack([result.projected[setting][proportion] for proportion in proportions], axis=1)
    return schema.enforce(
        pair_columns(pairs, len(proportions)).with_columns(
            proportion=pl.Series(proportions * len(pairs), dtype=pl.Float64()),
            dimension=pl.Series([result.dimensions[p] for p in proportions] * len(pairs), dtype=pl.Int64()),
            similarity=pl.Series(similarity.ravel()).fill_nan(None),
        )
    )
