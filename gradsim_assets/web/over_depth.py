"""A variant's similarity with its own original over depth, as points that a page draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradsim_assets.core.analysis.plots import palette, wording
from gradsim_assets.core.analysis.sample_comparison import Place, SampleUnderModel
from gradsim_assets.web.over_steps import BOTTOM, LEFT, RIGHT, TOP


@dataclass(frozen=True)
class Point:
    """A component."""

    x: float
    y: float
    family: str
    told: str
    is_chosen: bool


@dataclass(frozen=True)
class OverDepth:
    """The points, the place of the full gradient's line (None where it is unknown), and the ticks of both axes as (place, text)."""

    points: tuple[Point, ...]
    level: float | None
    depths: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, str], ...]
    families: tuple[tuple[str, str], ...]


def over_depth(under: SampleUnderModel, chosen: str, scale: tuple[float, float]) -> OverDepth:
    """The picture of a variant under a model: components outside the blocks stand before the first or after the last.

    `scale` is what the vertical axis spans, that of `common_scale`, so that pictures beside each other can be compared.
    """
    inside = [place.depth for place in under.places if place.depth is not None]
    last = max(inside, default=0)
    first = next((n for n, place in enumerate(under.places) if place.depth is not None), 0)

    def x(depth: float) -> float:
        return LEFT + (RIGHT - LEFT) * (depth + 1.5) / (last + 3)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - scale[0]) / (scale[1] - scale[0])

    def at(number: int, place: Place) -> float:
        return x(place.depth if place.depth is not None else (-1 if number < first else last + 1))

    points = tuple(
        Point(at(n, place), y(place.own), place.family, _told(place), place.component == chosen)
        for n, place in enumerate(under.places)
        if place.own is not None
    )
    every = max(1, -(-(last + 1) // 12))
    families = {point.family for point in points}
    return OverDepth(
        points,
        None if under.full is None or under.full.own is None else y(under.full.own),
        tuple((x(depth), str(depth)) for depth in range(0, last + 1, every) if inside),
        tuple((y(level), f"{level:.2f}") for level in np.linspace(*scale, 6)),
        tuple((name, wording.FAMILY_NAMES[name]) for name in palette.FAMILY_STYLES if name in families),
    )


def common_scale(samples: Sequence[SampleUnderModel]) -> tuple[float, float]:
    """What the vertical axes of some variants' pictures span, 0 among it."""
    known = [place.own for under in samples for place in under.places if place.own is not None]
    lowest, highest = min(0.0, *known, 0.0), max(0.05, *known, 0.05)
    return lowest, highest


def _told(place: Place) -> str:
    rival = "" if place.rival is None else f", best of the others {place.rival:.4f}"
    return f"{place.component}: {place.own:.4f}{rival}"
