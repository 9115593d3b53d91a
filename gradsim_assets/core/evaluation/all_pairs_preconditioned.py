"""`all_pairs_preconditioned`: products of every variant with every original under each preconditioner."""

from collections.abc import Sequence

import polars as pl

from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.gradients.preconditioned_products import preconditioned_frame
from gradsim_assets.core.tables.schemas import ALL_PAIRS_PRECONDITIONED


def all_pairs_preconditioned(result: PassResult, setting: str, pairs: Sequence[tuple[str, str]]) -> pl.LazyFrame:
    """The table `all_pairs_preconditioned/<setting>`, as `preconditioned_frame` makes it."""
    return preconditioned_frame(result, setting, pairs, ALL_PAIRS_PRECONDITIONED)
