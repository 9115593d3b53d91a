"""What both kinds of plots show, out of the tables: lines, bands, sizes, curves and levels to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.analysis.plots import palette
from gradsim_assets.core.analysis.plots.wording import LEAST_IN_BOX, OTHER, OWN, method_name, number, short_name
from gradsim_assets.core.components import FAMILIES, component_columns, family
from gradsim_assets.core.tables import schemas


@dataclass(frozen=True)
class Line:
    """One component type over depth: arrays of one length, NaN where a value (or its interval) is undefined.

    `place` numbers the types in the order of all lines; `x` is the depth, a little aside, so that the whiskers of the
    types of a family do not hide one another.
    """

    name: str
    family: str
    place: int
    depth: np.ndarray
    x: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    components: tuple[str, ...]


def with_family(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with a column `family`."""
    kinds = frame["component_type"].unique().to_list()
    mapping = {kind: family(kind) for kind in kinds}
    return frame.with_columns(
        pl.col("component_type").replace_strict(mapping, default="other", return_dtype=pl.String).alias("family")
    )


def lines(frame: pl.DataFrame, column: str) -> dict[str, list[Line]]:
    """The components inside blocks as one line per type, by family in the order of `FAMILIES`, types in model order.

    Experts share a type and a depth: a line goes through their mean, which has no interval of its own.
    """
    result: dict[str, list[Line]] = {}
    inside = with_family(with_interval(frame, column)).filter(pl.col("depth").is_not_null())
    place = 0
    for name in FAMILIES:
        part = inside.filter(family=name)
        kinds = part["component_type"].unique(maintain_order=True).to_list()
        for order, kind in enumerate(kinds):
            aside = _ASIDE * (order - (len(kinds) - 1) / 2)
            result.setdefault(name, []).append(
                _line(part.filter(component_type=kind), kind, name, place, column, aside)
            )
            place += 1
    return result


#: How far apart the lines of one family stand, in blocks.
_ASIDE = 0.09


def _line(part: pl.DataFrame, kind: str, family: str, place: int, column: str, aside: float) -> Line:
    alone = pl.len() == 1
    rows = (
        part.group_by("depth", maintain_order=True)
        .agg(
            pl.col(column).mean(),
            pl.when(alone).then(pl.col("low").first()),
            pl.when(alone).then(pl.col("high").first()),
            pl.col("component").first(),
            pl.len().alias("tensors"),
        )
        .sort("depth")
    )
    most = int(rows["tensors"].to_numpy().max())
    return Line(
        kind if most == 1 else f"{kind} (mean of {most})",
        family,
        place,
        rows["depth"].to_numpy(),
        rows["depth"].to_numpy() + aside,
        values(rows[column]),
        values(rows["low"]),
        values(rows["high"]),
        tuple(rows["component"].to_list()),
    )


def with_interval(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """The frame with the ends of a column's interval as columns `low` and `high`; null where the table has none."""
    ends = {end: f"{column}_{end}" for end in ("low", "high")}
    return frame.with_columns(
        (pl.col(name) if name in frame.columns else pl.lit(None, pl.Float64)).alias(end) for end, name in ends.items()
    )


def whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far an interval reaches below and above its values, [2, N]; 0 where there is none."""
    return np.nan_to_num([value - low, high - value]).clip(0)


def common_scale(frames: Sequence[pl.DataFrame], column: str) -> tuple[float, float] | None:
    """The least and the largest number in a column of some frames; None where there is no number, or but one."""
    found = np.concatenate([np.zeros(0), *(values(frame[column]) for frame in frames)])
    found = found[~np.isnan(found)]
    return (float(found.min()), float(found.max())) if len(found) and found.min() < found.max() else None


def ends_of(frame: pl.DataFrame, *columns: str) -> tuple[float, float]:
    """The least and the largest number in some columns, 0 among them."""
    found = np.concatenate([[0.0], *(values(frame[name]) for name in columns)])
    return float(np.nanmin(found)), float(np.nanmax(found))


def own_and_others(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame, palette.Style]]:
    """The pairs of variants with their own originals and those with others, each with a name and a style; no empty ones."""
    own = pl.col("variant_id") == pl.col("original_id")
    parts = ((OTHER, frame.filter(~own), palette.OTHER_STYLE), (OWN, frame.filter(own), palette.OWN_STYLE))
    return [part for part in parts if len(part[1])]


def lds_methods(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table `linear_datamodeling_score` but for those of single components; "all ..." for a type of them."""
    rows = frame.filter(pl.col("method") != "component")
    of_type = pl.col("method") == "component_type"
    return rows.with_columns(method=pl.when(of_type).then("all " + pl.col("component")).otherwise("method"))


def lds_components(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table `linear_datamodeling_score` of single components, with what their names say."""
    rows = frame.filter(method="component")
    return component_columns(rows["component"]).with_columns(rows.select("lds", "lds_low", "lds_high"))


def lds_levels(frame: pl.DataFrame) -> dict[str, float]:
    """The scores that components are compared with, by the names of their methods."""
    found = dict(frame.filter(pl.col("component").is_null()).select("method", "lds").iter_rows())
    return {method_name(name): found[name] for name in (schemas.FULL_GRADIENT, "bm25") if name in found}


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


@dataclass(frozen=True)
class Box:
    """The components of one number of parameters, in model order.

    `offsets` fans the points out across the box (the same table gives the same picture). `quartiles` are the lower whisker,
    the three quartiles and the upper whisker; None for fewer than `LEAST_IN_BOX` components, which are points alone.
    """

    label: str
    values: np.ndarray
    components: list[str]
    offsets: np.ndarray
    quartiles: tuple[float, float, float, float, float] | None


def boxes(frame: pl.DataFrame, column: str) -> list[Box]:
    """The components by their number of parameters, ascending, whatever their family; [] without sizes."""
    known = frame.filter(pl.col("parameters").is_not_null(), pl.col(column).is_not_null())
    result = []
    for size in known["parameters"].unique().sort():
        part = known.filter(parameters=size)
        kinds = short_name(", ".join(part["component_type"].unique(maintain_order=True)))
        found = part[column].to_numpy()
        offsets = np.linspace(-0.22, 0.22, len(found)) if len(found) > 1 else np.zeros(1)
        result.append(Box(f"{number(size)}\n{kinds}", found, part["component"].to_list(), offsets, _quartiles(found)))
    return result


def _quartiles(found: np.ndarray) -> tuple[float, float, float, float, float] | None:
    if len(found) < LEAST_IN_BOX:
        return None
    first, median, third = np.quantile(found, [0.25, 0.5, 0.75])
    reach = 1.5 * (third - first)
    low, high = found[found >= first - reach].min(), found[found <= third + reach].max()
    return float(low), float(first), float(median), float(third), float(high)


def references(retrieval: pl.DataFrame | None) -> dict[str, float]:
    """Accuracy of the methods that other accuracies are read against: full gradient, BM25, text overlap, chance."""
    if retrieval is None:
        return {}
    found = dict(retrieval.select("method", "accuracy").iter_rows())
    return {
        method_name(name): found[name]
        for name in (schemas.FULL_GRADIENT, "bm25", schemas.TEXT_OVERLAP, "chance")
        if found.get(name) is not None
    }


def beside_controls(comparison: pl.DataFrame) -> pl.DataFrame:
    """The full gradient's accuracy of a model and of each of its controls with their ends, one row each; none without controls."""
    rows = of_full_gradient(comparison)
    ends = ("", "_low", "_high")
    found = [(schemas.FULL_GRADIENT, *(rows[0][f"accuracy{end}"] for end in ends))] if rows else []
    found += [(row["control"], *(row[f"control_accuracy{end}"] for end in ends)) for row in rows]
    columns = {"method": pl.String(), **{f"accuracy{end}": pl.Float64() for end in ends}}
    return pl.DataFrame(found, schema=columns, orient="row").filter(pl.col("accuracy").is_not_null())


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


#: The figures of a model that are shown over the steps of its training, each with its interval.
OVER_STEPS = ("accuracy", "mrr", "lds")


def trajectories(comparison: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """The rows of a table `model_comparison` of each run with two checkpoints or more, by (run, setting), by step."""
    found = comparison.filter(pl.col("run").is_not_null()).sort("step", maintain_order=True)
    parts = found.partition_by("run", "setting", as_dict=True)
    ordered = sorted(parts, key=lambda key: (key[0], schemas.SETTINGS.index(key[1])))
    return {
        (run, setting): parts[run, setting] for run, setting in ordered if parts[run, setting]["step"].n_unique() > 1
    }


def without_earlier(comparison: pl.DataFrame) -> pl.DataFrame:
    """The rows of a table `model_comparison` without those of checkpoints that another one of their run follows."""
    last = pl.col("step") == pl.col("step").max().over("run")
    return comparison.filter(pl.col("run").is_null() | last)


def most_divergent(self_similarity: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    """The rows of the samples that diverge most, one frame a sample in model order."""
    ranked = self_similarity.filter(pl.col("divergence").is_not_null(), pl.col("divergence_rank") <= count)
    parts = ranked.sort("divergence_rank", maintain_order=True).partition_by("variant_id", maintain_order=True)
    return [with_family(part) for part in parts]


def values(series: pl.Series | Sequence[float | None]) -> np.ndarray:
    """float64 with NaN for null."""
    return pl.Series(series, dtype=pl.Float64).fill_null(float("nan")).to_numpy()
