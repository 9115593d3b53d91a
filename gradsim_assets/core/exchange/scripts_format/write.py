"""From our tables to the scripts' files, so that their notebooks still run."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.exchange.scripts_format.layout import (
    DOT_PRODUCTS,
    ORIGINAL_SELF,
    VARIANT_SELF,
    dot_product_folder,
    similarity_folder,
)
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.tables import schemas


def write_scripts(
    folder: Path,
    model: str,
    setting: str,
    dot_products: pl.DataFrame | None = None,
    gradient_similarity: pl.DataFrame | None = None,
    projected_similarity: pl.DataFrame | None = None,
    total_parameters: int | None = None,
    sample_size: str = "full",
) -> list[Path]:
    """Writes one setting's tables in the scripts' layout, one file of all samples per kind; returns the paths.

    Of `gradient_similarity` the rows of the full gradient are written. Projections are keyed by their nominal dimension,
    512 * round(proportion * parameters / 512), where `total_parameters` is known, else by their real one. An undefined
    similarity is written as NaN, a missing self product is left out.
    """
    written = []
    if dot_products is not None:
        target = dot_product_folder(folder, setting, model, sample_size)
        for stem, content in _products(dot_products).items():
            written.append(_write(target / f"{stem}.json", content))
    if gradient_similarity is not None:
        rows = gradient_similarity.filter(pl.col("component") == schemas.FULL_GRADIENT)
        target = similarity_folder(folder, setting, model, False)
        written.append(_write(target / f"sample_size_{sample_size}.json", _similarities(rows)))
    if projected_similarity is not None:
        by_dimension = {
            str(_nominal(proportion, dimension, total_parameters)): _similarities(rows)
            for (proportion, dimension), rows in projected_similarity.partition_by(
                "proportion", "dimension", as_dict=True, maintain_order=True
            ).items()
        }
        target = similarity_folder(folder, setting, model, True)
        written.append(_write(target / f"sample_size_{sample_size}.json", by_dimension))
    return written


def _nominal(proportion: Any, dimension: Any, total: int | None) -> int:
    if proportion is None or total is None:
        return int(dimension)
    return max(512, 512 * round(proportion * total / 512))


def _products(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    products: dict[str, Any] = {}
    variant_self: dict[str, Any] = {}
    original_self: dict[str, Any] = {}
    for variant, original, component, value, of_variant, of_original in table.select(
        *schemas.DOT_PRODUCTS.columns
    ).iter_rows():
        products.setdefault(variant, {}).setdefault(original, {})[component] = value
        if of_variant is not None:
            variant_self.setdefault(variant, {})[component] = of_variant
        if of_original is not None:
            original_self.setdefault(original, {})[component] = of_original
    # Originals in the order of the dataset, which is the variants' order as far as they have variants.
    order = {name: place for place, name in enumerate(products)}
    ordered = dict(sorted(original_self.items(), key=lambda item: order.get(item[0], len(order))))
    return {DOT_PRODUCTS: products, VARIANT_SELF: variant_self, ORIGINAL_SELF: ordered}


def _similarities(rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for variant, original, value in rows.select("variant_id", "original_id", "similarity").iter_rows():
        result.setdefault(variant, {})[original] = math.nan if value is None else value
    return result


def _write(path: Path, content: dict[str, Any]) -> Path:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        json.dump(content, file)
    return path
