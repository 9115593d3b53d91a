"""`dot_products`: products per pair and component."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS
from gradsim_assets.core.tables.table_schema import TableSchema

#: Rows that are made at a time of a table that may be larger than memory.
_ROWS = 500_000


def product_frame(
    result: PassResult, setting: str, pairs: Sequence[tuple[str, str]], schema: TableSchema = DOT_PRODUCTS
) -> pl.LazyFrame:
    """The table `dot_products/<setting>`, or another one of its columns: pairs in order, components in model order; made as it
    is read."""
    components = result.components
    step = pairs_at_once(len(components))

    def pieces() -> Iterator[pl.DataFrame]:
        for start in range(0, len(pairs), step):
            part = slice(start, start + step)
            yield pair_columns(pairs[part], len(components)).with_columns(
                component=pl.Series(components * len(pairs[part]), dtype=pl.String()),
                dot_product=result.dot_products[setting][part].ravel(),
                variant_self=result.variant_self[setting][part].ravel(),
                original_self=result.original_self[setting][part].ravel(),
            )

    return schema.streamed(pieces)


def pairs_at_once(components: int) -> int:
    """Pairs whose rows, one for each component, are made at a time."""
    return max(1, _ROWS // max(1, components))


def pair_columns(pairs: Sequence[tuple[str, str]], repeats: int) -> pl.DataFrame:
    """The columns variant_id, original_id of the pairs in order, each in as many rows one behind the other."""
    frame = pl.DataFrame(
        {"variant_id": [variant for variant, _ in pairs], "original_id": [original for _, original in pairs]},
        schema={"variant_id": pl.String(), "original_id": pl.String()},
    )
    return frame[np.repeat(np.arange(len(pairs)), repeats)]
