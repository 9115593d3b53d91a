"""`all_pairs`: products of every variant with every original."""

from collections.abc import Iterable, Sequence

import polars as pl

from gradsim_assets.core.gradients.dot_products import product_frame
from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.samples import present
from gradsim_assets.core.tables.schemas import ALL_PAIRS


def every_pair(originals: pl.DataFrame, variants: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Every variant of any of the dataset tables with every original: variant_id, original_id."""
    names = pl.concat([present(frame).select(variant_id="id") for frame in variants])
    return names.unique(maintain_order=True).join(originals.select(original_id="id"), how="cross")


def all_pairs(result: PassResult, setting: str, pairs: Sequence[tuple[str, str]]) -> pl.LazyFrame:
    """The table `all_pairs/<setting>`, as `product_frame` makes it."""
    return product_frame(result, setting, pairs, ALL_PAIRS)
