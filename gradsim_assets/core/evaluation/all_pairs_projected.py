"""`all_pairs_projected`: cosines of the projected gradients of every variant with every original."""

from collections.abc import Sequence

import polars as pl

from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.gradients.projected_similarity import projection_frame
from gradsim_assets.core.tables.schemas import ALL_PAIRS_PROJECTED


def all_pairs_projected(result: PassResult, setting: str, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """The table `all_pairs_projected/<setting>`, as `projection_frame` makes it."""
    return projection_frame(result, setting, pairs, ALL_PAIRS_PROJECTED)
