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
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "gradsim",  # the same figure gives the same file
    "svg.fonttype": "none",
}

#: matplotlib keeps its style in a global; steps of one process may plot in several threads.
_LOCK = threading.Lock()

MARKERS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")
_REFERENCE_DASHES = ("--", ":", "-.")


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
        frame: component_type, depth, parameters, and the figure.
        column: the column of the figure, which names the plots as well.
        label: what an axis calls it.
        setting: the variants that it is of.
        help: how to read a plot of single components.
        levels: the same figure of other methods by their names, drawn as lines.
    """

    frame: pl.DataFrame
    column: str
    label: str
    setting: str
    help: str
    levels: Mapping[str, float] = field(default_factory=dict)

    def title(self, what: str) -> str:
        """The title of a plot that shows the figure in some way."""
        return f"{self.column.capitalize()}{what} ({wording.setting_name(self.setting)})"


def as_plot(name: str, title: str, help: str, size: tuple[float, float], draw: Callable[[Any], None]) -> Plot:
    """The plot that `draw` puts on a figure of `size` (width and height in inches)."""
    import matplotlib
    from matplotlib.figure import Figure

    with _LOCK, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        draw(figure)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
        figure.set_layout_engine("none")  # laid out by now; once more would cost as much as the drawing
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Plot(name, title, help, png.getvalue(), svg.getvalue())


def depth_axis(axes: Any, last: int) -> None:
    """Gives axes whole block numbers, from the first block to the last."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.set_xlim(-0.6, last + 0.6)


def last_depth(frame: pl.DataFrame) -> int:
    """The number of the last block; 0 for a model without blocks."""
    deepest = frame["depth"].max()
    return deepest if isinstance(deepest, int) else 0


def _references(axes: Any, levels: Mapping[str, float]) -> None:
    for (name, level), dash in zip(levels.items(), _REFERENCE_DASHES, strict=False):
        axes.axhline(level, color=palette.GREY, linestyle=dash, linewidth=1, label=name, zorder=1)


def over_depth(shown: PerComponent) -> list[Plot]:
    """One line per component type over depth, a panel per family; the components outside the blocks in a last panel."""
    panels, rest = series.lines(shown.frame, shown.column), series.outside(shown.frame)
    count = len(panels) + (len(rest) > 0)
    if not panels:
        return []

    def draw(figure: Any) -> None:
        heights = [3.0] * len(panels) + ([0.5 + 0.22 * len(rest)] if len(rest) else [])
        grid = figure.subplots(count, 1, squeeze=False, height_ratios=heights)[:, 0]
        limits = _limits(shown)
        for axes, (family, lines) in zip(grid, panels.items(), strict=False):
            for i, line in enumerate(lines):
                axes.plot(
                    line.depth,
                    line.value,
                    color=palette.CYCLE[i % len(palette.CYCLE)],
                    marker=MARKERS[i % len(MARKERS)],
                    linestyle=_DASHES[(i // len(palette.CYCLE)) % len(_DASHES)],
                    markersize=4,
                    linewidth=1.3,
                    label=line.name,
                )
            _references(axes, shown.levels)
            axes.set(title=wording.FAMILY_NAMES[family], ylabel=shown.label, ylim=limits)
            depth_axis(axes, last_depth(shown.frame))
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        grid[len(panels) - 1].set_xlabel(wording.DEPTH)
        if len(rest):
            _dots(grid[-1], rest, shown, limits)

    size = (10, 2.7 * len(panels) + 0.6 + 0.3 * len(rest))
    return [as_plot(f"{shown.column}_over_depth", shown.title(" of each component"), shown.help, size, draw)]


def _limits(shown: PerComponent) -> tuple[float, float]:
    found = series.values(shown.frame[shown.column])
    found = np.append(found[~np.isnan(found)], list(shown.levels.values()))
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    margin = max(0.05 * (high - low), 0.005)
    return low - margin, high + margin


def _dots(axes: Any, rest: pl.DataFrame, shown: PerComponent, limits: tuple[float, float]) -> None:
    places = np.arange(len(rest))
    colours = [palette.FAMILY_COLOURS[name] for name in rest["family"]]
    axes.scatter(series.values(rest[shown.column]), places, c=colours, s=30, zorder=3)
    for level, dash in zip(shown.levels.values(), _REFERENCE_DASHES, strict=False):
        axes.axvline(level, color=palette.GREY, linestyle=dash, linewidth=1, zorder=1)
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
            axes.bar(line.depth, line.value, color=palette.FAMILY_COLOURS[line.family], width=0.8)
            axes.set_ylabel(line.name, rotation=0, ha="right", va="center")
            axes.grid(axis="x", visible=False)
            depth_axis(axes, last_depth(shown.frame))
        grid[-1].set_xlabel(wording.DEPTH)
        families = [f for f in FAMILIES if any(line.family == f for line in rows)]
        handles = [Patch(color=palette.FAMILY_COLOURS[f], label=wording.FAMILY_NAMES[f]) for f in families]
        figure.legend(
            handles=handles, loc="outside lower left", ncols=len(families), title=shown.label, alignment="left"
        )

    title = shown.title(" of each component type over depth")
    return [as_plot(f"{shown.column}_bars", title, shown.help, (10, 0.8 * len(rows) + 1.4), draw)]


def attention_against_mlp(shown: PerComponent) -> list[Plot]:
    """Mean of attention's and the MLP's components over depth, with the range between their extremes."""
    bands = series.family_bands(shown.frame, shown.column)
    if not bands:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for marker, (family, band) in zip("os", bands.items(), strict=False):
            colour, depth = palette.FAMILY_COLOURS[family], band["depth"].to_numpy()
            axes.fill_between(depth, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                depth,
                band["mean"],
                color=colour,
                marker=marker,
                markersize=5,
                label=f"{wording.FAMILY_NAMES[family]}, mean",
            )
        _references(axes, shown.levels)
        axes.set(xlabel=wording.DEPTH, ylabel=shown.label)
        depth_axis(axes, last_depth(shown.frame))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    title = shown.title(": attention against MLP")
    return [as_plot(f"{shown.column}_attention_mlp", title, wording.BAND_HELP, (10, 3.6), draw)]


def box_by_size(shown: PerComponent) -> list[Plot]:
    """Distribution over the components of each number of parameters, ascending; left out where sizes are unknown."""
    groups = series.by_size(shown.frame, shown.column)
    if not groups:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = np.arange(len(groups))
        axes.boxplot(
            [values for _, _, values, _ in groups],
            positions=places,
            orientation="horizontal",
            widths=0.6,
            showfliers=False,
            medianprops={"color": palette.BLACK, "linewidth": 1.5},
            boxprops={"color": palette.GREY},
            whiskerprops={"color": palette.GREY},
            capprops={"color": palette.GREY},
        )
        for place, (_, _, values, _) in zip(places, groups, strict=True):
            # A fixed fan instead of random jitter: the same table gives the same picture.
            spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            axes.scatter(values, place + spread, s=14, color=palette.BLUE, alpha=0.6, linewidth=0, zorder=3)
        axes.set_yticks(places, [f"{wording.number(size)}\n{short_name(kinds)}" for size, kinds, _, _ in groups])
        axes.set(xlabel=shown.label, ylabel="parameters of a component", ylim=(len(groups) - 0.4, -0.6))

    title, size = shown.title(" by number of parameters"), (10, 0.75 * len(groups) + 1.3)
    return [as_plot(f"{shown.column}_by_parameters", title, wording.BOX_HELP, size, draw)]


def short_name(text: str, length: int = 44) -> str:
    """A list of names as it fits beside an axis, cut behind one of them."""
    return text if len(text) <= length else text[: length - 1].rsplit(",", 1)[0] + ", …"
