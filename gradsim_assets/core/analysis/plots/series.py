"""What both kinds of plots show, out of the tables: lines, bands, sizes, curves and levels to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots.wording import method_name
from gradsim_assets.core.components import FAMILIES, family
from gradsim_assets.core.tables import schemas


@dataclass(frozen=True)
class Line:
    """One component type over depth: arrays of one length, NaN where a value is undefined."""

    name: str
    family: str
    depth: np.ndarray
    value: np.ndarray
    components: tuple[str, ...]


def with_family(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with a column `family`."""
    kinds = frame["component_type"].unique().to_list()
    mapping = {kind: family(kind) for kind in kinds}
    return frame.with_columns(
        pl.col("component_type").replace_strict(mapping, default="other", return_dtype=pl.String).alias("family")
    )


def lines(frame: pl.DataFrame, column: str) -> dict[str, list[Line]]:
    """The components inside blocks as one line per type, by family in the order of `FAMILIES`, types in model order."""
    result: dict[str, list[Line]] = {}
    inside = with_family(frame).filter(pl.col("depth").is_not_null())
    for name in FAMILIES:
        part = inside.filter(family=name)
        for kind in part["component_type"].unique(maintain_order=True):
            # Experts share a type and a depth; a line goes through their mean.
            rows = (
                part.filter(component_type=kind)
                .group_by("depth", maintain_order=True)
                .agg(pl.col(column).mean(), pl.col("component").first(), pl.len().alias("tensors"))
                .sort("depth")
            )
            most = int(rows["tensors"].to_numpy().max())
            label = kind if most == 1 else f"{kind} (mean of {most})"
            line = Line(label, name, rows["depth"].to_numpy(), values(rows[column]), tuple(rows["component"].to_list()))
            result.setdefault(name, []).append(line)
    return result


def outside(frame: pl.DataFrame) -> pl.DataFrame:
    """The components outside the blocks, with a column `family`."""
    return with_family(frame).filter(pl.col("depth").is_null())


def outside_places(frame: pl.DataFrame) -> list[int]:
    """Where the components outside the blocks stand on an axis of depth: -1 before the first block, or after the last."""
    depths = frame["depth"].to_list()
    inside = [place for place, depth in enumerate(depths) if depth is not None]
    first, last = (inside[0], max(depths[place] for place in inside)) if inside else (0, -1)
    return [-1 if place < first else last + 1 for place, depth in enumerate(depths) if depth is None]


def family_bands(frame: pl.DataFrame, column: str) -> dict[str, pl.DataFrame]:
    """Mean, low and high of attention's and the MLP's components at each depth."""
    inside = with_family(frame).filter(pl.col("depth").is_not_null(), pl.col(column).is_not_null())
    return {
        name: inside.filter(family=name)
        .group_by("depth")
        .agg(pl.col(column).mean().alias("mean"), pl.col(column).min().alias("low"), pl.col(column).max().alias("high"))
        .sort("depth")
        for name in ("attention", "mlp")
        if (inside["family"] == name).any()
    }


def by_size(frame: pl.DataFrame, column: str) -> list[tuple[int, str, np.ndarray, list[str]]]:
    """(parameters, component types, values, components) of each number of parameters, ascending; [] without sizes."""
    known = frame.filter(pl.col("parameters").is_not_null(), pl.col(column).is_not_null())
    result = []
    for size in known["parameters"].unique().sort():
        part = known.filter(parameters=size)
        kinds = part["component_type"].unique(maintain_order=True).to_list()
        result.append((size, ", ".join(kinds), part[column].to_numpy(), part["component"].to_list()))
    return result


def references(retrieval: pl.DataFrame | None) -> dict[str, float]:
    """Accuracy of the methods that other accuracies are read against: full gradient, BM25, chance."""
    if retrieval is None:
        return {}
    found = dict(retrieval.select("method", "accuracy").iter_rows())
    return {
        method_name(name): found[name]
        for name in (schemas.FULL_GRADIENT, "bm25", "chance")
        if found.get(name) is not None
    }


@dataclass(frozen=True)
class GreedyCurves:
    """Curves of one criterion: x is the share of parameters in percent, or the round where sizes are unknown."""

    criterion: str
    by_share: bool
    same: pl.DataFrame  # x, value, component
    held_out: pl.DataFrame  # x, value, low, high over the splits; may be empty
    points: list[tuple[str, float, float]]  # projections: name, x, value
    level: float | None  # the full gradient


def greedy_curves(greedy: pl.DataFrame, retrieval: pl.DataFrame | None, criterion: str) -> GreedyCurves:
    """The greedy table's curves for one criterion, with projections and the full gradient to compare."""
    rows = greedy.filter(criterion=criterion)
    by_share = len(rows) > 0 and rows["parameter_share"].null_count() == 0
    x = (100 * pl.col("parameter_share") if by_share else pl.col("round").cast(pl.Float64)).alias("x")
    same = rows.filter(evaluation="same_ids").sort("round").select(x, "value", "component")
    held_out = (
        rows.filter(evaluation="held_out")
        .group_by("round")
        .agg(
            (100 * pl.col("parameter_share").mean() if by_share else pl.col("round").first().cast(pl.Float64)).alias(
                "x"
            ),
            pl.col("value").mean(),
            pl.col("value").min().alias("low"),
            pl.col("value").max().alias("high"),
        )
        .sort("round")
    )
    points: list[tuple[str, float, float]] = []
    level = 1.0 if criterion == "agreement" else None
    if retrieval is not None:
        for row in retrieval.rows(named=True):
            size = row["method"].removeprefix("projection_")
            if row["method"] != size and not size.endswith("d") and by_share and row[criterion] is not None:
                points.append((method_name(row["method"]), 100 * float(size), row[criterion]))
            if row["method"] == schemas.FULL_GRADIENT:
                level = row[criterion]
    return GreedyCurves(criterion, by_share, same, held_out, points, level)


def most_divergent(self_similarity: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    """The rows of the samples that diverge most, one frame a sample in model order."""
    ranked = self_similarity.filter(pl.col("divergence").is_not_null(), pl.col("divergence_rank") <= count)
    parts = ranked.sort("divergence_rank", maintain_order=True).partition_by("variant_id", maintain_order=True)
    return [with_family(part) for part in parts]


def values(series: pl.Series | Sequence[float | None]) -> np.ndarray:
    """float64 with NaN for null."""
    return pl.Series(series, dtype=pl.Float64).fill_null(float("nan")).to_numpy()
