"""The panels that the static plots are drawn with: over depth, bars, boxes."""

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import palette, series, wording
from gradsim_assets.core.components import FAMILIES

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": palette.GRID,
    "text.color": palette.INK,
    "axes.labelcolor": palette.INK,
    "axes.edgecolor": palette.AXIS,
    "xtick.color": palette.AXIS,
    "ytick.color": palette.AXIS,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "gradsim",  # the same figure gives the same file
    "svg.fonttype": "none",
}

#: matplotlib keeps its style in a global; steps of one process may plot in several threads.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Plot:
    """A finished plot: a name for files, a title, a sentence that helps to read it, and its images."""

    name: str
    title: str
    help: str
    png: bytes
    svg: str


@dataclass(frozen=True)
class PerComponent:
    """A figure of every component, as the panels draw it.

    Attributes:
        frame: component_type, depth, parameters, and the figure, with the ends of its interval where it has one.
        column: the column of the figure, which names the plots as well.
        setting: the variants that it is of.
        levels: the same figure of other methods by their names, drawn as lines.
    """

    frame: pl.DataFrame
    column: str
    setting: str
    levels: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What an axis calls the figure."""
        return wording.LABELS[self.column]

    def plot(self, how: str, size: tuple[float, float], draw: Callable[[Any], None]) -> Plot:
        """The plot that shows the figure in some way (`over_depth`)."""
        return as_plot(f"{self.column}_{how}", self.setting, size, draw)


def as_plot(name: str, setting: str, size: tuple[float, float], draw: Callable[[Any], None]) -> Plot:
    """The plot of that name in `wording.PLOTS`; its title says the setting where it has one."""
    import matplotlib
    from matplotlib.figure import Figure

    words = wording.PLOTS[name]
    title = f"{words.title} ({wording.setting_name(setting)})" if setting else words.title
    with _LOCK, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        draw(figure)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
        figure.set_layout_engine("none")  # laid out by now; once more would cost as much as the drawing
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Plot(name, title, words.help, png.getvalue(), svg.getvalue())


def depth_axis(axes: Any, last: int) -> None:
    """Gives axes whole block numbers, from the first block to the last."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.set_xlim(-0.6, last + 0.6)


def last_depth(frame: pl.DataFrame) -> int:
    """The number of the last block; 0 for a model without blocks."""
    deepest = frame["depth"].max()
    return deepest if isinstance(deepest, int) else 0


def whiskers(axes: Any, x: Any, y: Any, colour: Any, **reach: np.ndarray) -> None:
    """The intervals of points (`xerr` or `yerr`, as `series.whiskers` gives them), thin enough to leave these in sight."""
    axes.errorbar(x, y, **reach, fmt="none", ecolor=colour, elinewidth=0.9, alpha=palette.WHISKER, zorder=2)


def _references(axes: Any, levels: Mapping[str, float]) -> None:
    for (name, level), style in zip(levels.items(), palette.REFERENCE_STYLES, strict=False):
        axes.axhline(level, color=style.colour, linestyle=style.dash, linewidth=1, label=name, zorder=1)


def over_depth(shown: PerComponent) -> list[Plot]:
    """One line per component type over depth, a panel per family; the components outside the blocks in a last panel."""
    panels = series.lines(shown.frame, shown.column)
    rest = series.outside(series.with_interval(shown.frame, shown.column))
    count = len(panels) + (len(rest) > 0)
    if not panels:
        return []

    def draw(figure: Any) -> None:
        heights = [3.0] * len(panels) + ([0.5 + 0.22 * len(rest)] if len(rest) else [])
        grid = figure.subplots(count, 1, squeeze=False, height_ratios=heights)[:, 0]
        limits = _limits(shown)
        for axes, (family, lines) in zip(grid, panels.items(), strict=False):
            for line in lines:
                _line(axes, line)
            _references(axes, shown.levels)
            axes.set(title=wording.FAMILY_NAMES[family], ylabel=shown.label, ylim=limits)
            depth_axis(axes, last_depth(shown.frame))
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        grid[len(panels) - 1].set_xlabel(wording.DEPTH)
        if len(rest):
            _dots(grid[-1], rest, shown, limits)

    return [shown.plot("over_depth", (10, 2.7 * len(panels) + 0.6 + 0.3 * len(rest)), draw)]


def _line(axes: Any, line: series.Line) -> None:
    style = palette.style(line.place, line.family)
    whiskers(axes, line.x, line.value, style.colour, yerr=series.whiskers(line.value, line.low, line.high))
    axes.plot(
        line.x,
        line.value,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        markersize=4,
        linewidth=1.3,
        label=line.name,
    )


def _limits(shown: PerComponent) -> tuple[float, float]:
    frame = series.with_interval(shown.frame, shown.column)
    found = np.concatenate([series.values(frame[name]) for name in (shown.column, "low", "high")])
    found = np.append(found[~np.isnan(found)], list(shown.levels.values()))
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    margin = max(0.05 * (high - low), 0.005)
    return low - margin, high + margin


def _dots(axes: Any, rest: pl.DataFrame, shown: PerComponent, limits: tuple[float, float]) -> None:
    places = np.arange(len(rest))
    colours = [palette.FAMILY_STYLES[name].colour for name in rest["family"]]
    found, low, high = (series.values(rest[name]) for name in (shown.column, "low", "high"))
    whiskers(axes, found, places, colours, xerr=series.whiskers(found, low, high))
    axes.scatter(found, places, c=colours, s=30, zorder=3)
    for level, style in zip(shown.levels.values(), palette.REFERENCE_STYLES, strict=False):
        axes.axvline(level, color=style.colour, linestyle=style.dash, linewidth=1, zorder=1)
    axes.set_yticks(places, rest["component_type"].to_list())
    axes.set(title=wording.OUTSIDE, xlabel=shown.label, xlim=limits, ylim=(len(rest) - 0.4, -0.6))


def bars(shown: PerComponent) -> list[Plot]:
    """One bar per component over depth, a row per component type, coloured by family."""
    rows = [line for lines in series.lines(shown.frame, shown.column).values() for line in lines]
    if not rows:
        return []

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        grid = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, line in zip(grid, rows, strict=True):
            axes.bar(line.depth, line.value, color=palette.FAMILY_STYLES[line.family].colour, width=0.8)
            reach = series.whiskers(line.value, line.low, line.high)
            whiskers(axes, line.depth, line.value, palette.BLACK, yerr=reach)
            axes.set_ylabel(line.name, rotation=0, ha="right", va="center")
            axes.grid(axis="x", visible=False)
            depth_axis(axes, last_depth(shown.frame))
        grid[-1].set_xlabel(wording.DEPTH)
        families = [f for f in FAMILIES if any(line.family == f for line in rows)]
        handles = [Patch(color=palette.FAMILY_STYLES[f].colour, label=wording.FAMILY_NAMES[f]) for f in families]
        where = {"loc": "outside lower left", "ncols": len(families), "alignment": "left"}
        figure.legend(handles=handles, title=shown.label, **where)

    return [shown.plot("bars", (10, 0.8 * len(rows) + 1.4), draw)]


def attention_against_mlp(shown: PerComponent) -> list[Plot]:
    """Mean of attention's and the MLP's components over depth, with the range between their extremes."""
    bands = series.family_bands(shown.frame, shown.column)
    if not bands:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for family, band in bands.items():
            style, depth = palette.FAMILY_STYLES[family], band["depth"].to_numpy()
            axes.fill_between(depth, band["low"], band["high"], color=style.colour, alpha=palette.AREA, linewidth=0)
            axes.plot(
                depth,
                band["mean"],
                color=style.colour,
                marker=style.marker,
                markersize=5,
                label=wording.mean_of(family),
            )
        _references(axes, shown.levels)
        axes.set(xlabel=wording.DEPTH, ylabel=shown.label)
        depth_axis(axes, last_depth(shown.frame))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return [shown.plot("attention_mlp", (10, 3.6), draw)]


def box_by_size(shown: PerComponent) -> list[Plot]:
    """Distribution over the components of each number of parameters, ascending; left out where sizes are unknown."""
    groups = series.boxes(shown.frame, shown.column)
    if not groups:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _boxes(axes, groups)
        for place, group in enumerate(groups):
            offsets = place + group.offsets
            axes.scatter(group.values, offsets, s=14, color=palette.BLUE, alpha=0.6, linewidth=0, zorder=3)
        axes.set_yticks(range(len(groups)), [group.label for group in groups])
        axes.set(xlabel=shown.label, ylabel=wording.SIZE, ylim=(len(groups) - 0.4, -0.6))

    return [shown.plot("by_parameters", (10, 0.75 * len(groups) + 1.3), draw)]


def _boxes(axes: Any, groups: list[series.Box]) -> None:
    names = ("whislo", "q1", "med", "q3", "whishi")
    drawn = {
        place: dict(zip(names, group.quartiles, strict=True)) for place, group in enumerate(groups) if group.quartiles
    }
    if not drawn:
        return
    axes.bxp(
        list(drawn.values()),
        positions=list(drawn),
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        medianprops={"color": palette.BLACK, "linewidth": 1.5},
        boxprops={"color": palette.GREY},
        whiskerprops={"color": palette.GREY},
        capprops={"color": palette.GREY},
    )
