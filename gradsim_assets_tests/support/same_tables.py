"""Tables of two homes side by side: equal, but for what machines round."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from polars import selectors

from gradsim_assets_tests.support.engine_cases import relative_error

#: Of gradients: of both their lengths; of all other figures: of 1 or their size. The plan of a pass, and with it the order
#: of sums, follows the memory that is free: 1e-8 to 1e-7 of the lengths were seen.
TOLERANCE = 1e-6
#: An agreement is a cosine between vectors of similarities that are a tenth of 1 in size: what they are off by weighs ten times.
AGREEMENT_TOLERANCE = 1e-5


def tables_of(root: Path) -> dict[str, pl.DataFrame]:
    """Every file of the tables under a root, by its place, whatever the model's name."""
    return {
        re.sub(r"model=[^/]*", "model=M", str(path.relative_to(root))): pl.read_parquet(path, hive_partitioning=False)
        for path in sorted(root.rglob("data.parquet"))
    }


def differences(found: Mapping[str, pl.DataFrame], wanted: Mapping[str, pl.DataFrame]) -> list[str]:
    """What differs by more than rounding, a sentence each."""
    said = [f"{place} is there once" for place in sorted(found.keys() ^ wanted.keys())]
    for place in sorted(found.keys() & wanted.keys()):
        if why := _difference(place, found[place], wanted[place]):
            said.append(f"{place}: {why}")
    return said


def _difference(place: str, found: pl.DataFrame, wanted: pl.DataFrame) -> str | None:
    if found.schema != wanted.schema or found.height != wanted.height:
        return f"{found.schema} of {found.height} rows in place of {wanted.schema} of {wanted.height}"
    floats = selectors.float()
    if not found.select(~floats).equals(wanted.select(~floats)):
        return "texts or counts are others"
    if not found.select(floats.is_null()).equals(wanted.select(floats.is_null())):
        return "other figures are missing"
    error = _product_error(found, wanted) if place.startswith("dot_products") else _error(found, wanted, floats)
    tolerance = AGREEMENT_TOLERANCE if place.startswith(("agreement", "greedy_selection")) else TOLERANCE
    return f"figures differ by {error:.1e}" if error > tolerance else None


def _error(found: pl.DataFrame, wanted: pl.DataFrame, columns: selectors.Selector) -> float:
    one, other = (frame.select(columns.fill_null(0)).to_numpy() for frame in (found, wanted))
    return float((np.abs(one - other) / np.maximum(1, np.abs(other))).max(initial=0))


def _product_error(found: pl.DataFrame, wanted: pl.DataFrame) -> float:
    components = wanted["component"].n_unique()
    one, other = (
        {
            name: frame[name].to_numpy().reshape(-1, components)
            for name in ("dot_product", "variant_self", "original_self")
        }
        for frame in (found, wanted)
    )
    variant, original = other["variant_self"], other["original_self"]
    lengths = {"dot_product": (variant, original), "variant_self": (variant,) * 2, "original_self": (original,) * 2}
    return max(float(relative_error(one[name], other[name], *lengths[name])) for name in lengths)
