"""`preconditioned_products`: products per pair, preconditioner and component."""

from collections.abc import Iterator, Sequence

import polars as pl

from gradsim_assets.core.gradients.dot_products import pair_columns, pairs_at_once
from gradsim_assets.core.gradients.engine import PassResult
from gradsim_assets.core.tables.schemas import PRECONDITIONED_PRODUCTS
from gradsim_assets.core.tables.table_schema import TableSchema


def preconditioned_frame(
    result: PassResult, setting: str, pairs: Sequence[tuple[str, str]], schema: TableSchema = PRECONDITIONED_PRODUCTS
) -> pl.LazyFrame:
    """The table `preconditioned_products/<setting>`, or another one of its columns: by preconditioner, pairs in order, components
    in model order; made as it is read."""
    components = result.components
    step = pairs_at_once(len(components))

    def pieces() -> Iterator[pl.DataFrame]:
        for name, products in result.preconditioned[setting].items():
            for start in range(0, len(pairs), step):
                part = slice(start, start + step)
                yield pair_columns(pairs[part], len(components)).with_columns(
                    preconditioner=pl.lit(name),
                    component=pl.Series(components * len(pairs[part]), dtype=pl.String()),
                    **{term: pl.Series(values[part].ravel()) for term, values in products.items()},
                )

    return schema.streamed(pieces)
