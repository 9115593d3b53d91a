"""The predecessor's nested JSON as tables."""

import math
from typing import Any

import polars as pl

from gradsim_assets.core.tables import schemas

Products = dict[str, dict[str, dict[str, float]]]  # variant id, original id, component
Selfs = dict[str, dict[str, float]]  # sample id, component
Similarities = dict[str, dict[str, float]]  # variant id, original id


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def product_table(products: Products, variant_self: Selfs, original_self: Selfs, known: set[str]) -> pl.DataFrame:
    """The table `dot_products` of the known components; self products that are missing are null, no numbers are NaN."""
    columns: dict[str, list] = {name: [] for name in schemas.DOT_PRODUCTS.columns}
    nothing: dict[str, float] = {}
    for variant, candidates in products.items():
        of_variant = variant_self.get(variant, nothing)
        for original, values in candidates.items():
            of_original = original_self.get(original, nothing)
            names = [name for name in values if name in known]
            columns["variant_id"] += [variant] * len(names)
            columns["original_id"] += [original] * len(names)
            columns["component"] += names
            columns["dot_product"] += [_real(values[name]) for name in names]
            columns["variant_self"] += [_real(of_variant[name]) if name in of_variant else None for name in names]
            columns["original_self"] += [_real(of_original[name]) if name in of_original else None for name in names]
    dtypes = {name: column.dtype for name, column in schemas.DOT_PRODUCTS.columns.items()}
    return schemas.DOT_PRODUCTS.enforce(pl.DataFrame(columns, schema=dtypes, strict=False))


def similarity_table(similarities: Similarities) -> pl.DataFrame:
    """The table `gradient_similarity` of the full gradient; what is no number is null."""
    rows = [
        (variant, original, _real(value))
        for variant, found in similarities.items()
        for original, value in found.items()
    ]
    dtypes = {"variant_id": pl.String, "original_id": pl.String, "similarity": pl.Float64}
    frame = pl.DataFrame(rows, schema=dtypes, orient="row", strict=False)
    return schemas.GRADIENT_SIMILARITY.enforce(
        frame.with_columns(pl.col("similarity").fill_nan(None), pl.lit(schemas.FULL_GRADIENT).alias("component"))
    )
