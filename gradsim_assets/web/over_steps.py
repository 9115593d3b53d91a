"""Figures of a run's checkpoints over their steps, as curves that a page draws."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import series, wording
from gradsim_assets.core.tables.schemas import FULL_GRADIENT

#: Size of a panel, and where its axes begin: left, top, right, bottom.
WIDTH, HEIGHT = 460, 230
LEFT, TOP, RIGHT, BOTTOM = 42, 10, 450, 200


@dataclass(frozen=True)
class Curve:
    """One method: its points, and the area of its intervals, as SVG has them."""

    name: str
    is_main: bool
    points: str
    area: str
    told: str


@dataclass(frozen=True)
class Panel:
    """One figure over steps: curves, and the ticks of both axes as (place, text)."""

    label: str
    curves: tuple[Curve, ...]
    steps: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Trajectory:
    """A run in one setting."""

    run: str
    setting: str
    panels: tuple[Panel, ...]


def trajectories(comparison: pl.DataFrame, models: Collection[str]) -> list[Trajectory]:
    """Every run of which the table `model_comparison` has two of some models or more."""
    found = series.trajectories(comparison.filter(pl.col("model").is_in(list(models))))
    return [
        Trajectory(
            run,
            setting,
            tuple(panel(part, name, wording.LABELS[name]) for name in series.OVER_STEPS if part[name].count()),
        )
        for (run, setting), part in found.items()
    ]


def panel(part: pl.DataFrame, column: str, label: str) -> Panel:
    """The curves of a column over `step`, one for each `method`, with the ends of its intervals beside it (`_low`, `_high`)."""
    known = part.filter(pl.col(column).is_not_null())
    ends = series.ends_of(known, column, f"{column}_low", f"{column}_high")
    lowest, highest = min(0.0, ends[0]), max(1.0, ends[1])
    steps = sorted(set(known["step"]))

    def x(step: float) -> float:
        return LEFT + (RIGHT - LEFT) * (step - steps[0]) / max(steps[-1] - steps[0], 1)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - lowest) / (highest - lowest)

    def curve(rows: pl.DataFrame) -> Curve:
        method = rows["method"][0]
        across, value = [x(step) for step in rows["step"]], rows[column].to_list()
        low, high = (rows[f"{column}_{end}"].fill_null(rows[column]) for end in ("low", "high"))
        border = [*zip(across, high, strict=True), *reversed(list(zip(across, low, strict=True)))]
        told = ", ".join(f"{value:.3f} at step {step}" for step, value in zip(rows["step"], value, strict=True))
        return Curve(
            wording.method_name(method),
            method == FULL_GRADIENT,
            _written((place, y(one)) for place, one in zip(across, value, strict=True)),
            _written((place, y(one)) for place, one in border),
            told,
        )

    return Panel(
        label,
        tuple(curve(rows) for rows in known.partition_by("method", maintain_order=True)),
        tuple((x(step), str(step)) for step in _few(steps)),
        tuple((y(level), f"{level:.1f}") for level in np.linspace(lowest, highest, 6)),
    )


def _few(steps: list[int], most: int = 8) -> list[int]:
    """So many of the steps, the first and the last among them."""
    places = np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(int)
    return [steps[place] for place in dict.fromkeys(places.tolist())]


def _written(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
