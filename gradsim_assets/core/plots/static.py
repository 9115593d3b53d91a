"""Static plots (matplotlib): PNG for the UI's metadata, SVG for papers.

Every function takes tables as their schemas describe them and returns a list of plots; a plot that its table cannot
give (no sizes, no rows) is left out.
"""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.plots import data

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
_MARKERS = "osD^vPX*"
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


def _plot(name: str, title: str, help: str, size: tuple[float, float], draw: Callable[[Any], None]) -> Plot:
    import matplotlib
    from matplotlib.figure import Figure

    with _LOCK, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        draw(figure)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Plot(name, title, help, png.getvalue(), svg.getvalue())


def _depth_axis(axes: Any, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.set_xlim(-0.6, last + 0.6)


def _last_depth(frame: pl.DataFrame) -> int:
    deepest = frame["depth"].max()
    return deepest if isinstance(deepest, int) else 0


def _references(axes: Any, levels: dict[str, float]) -> None:
    for (name, level), dash in zip(levels.items(), _REFERENCE_DASHES, strict=False):
        axes.axhline(level, color=data.GREY, linestyle=dash, linewidth=1, label=name, zorder=1)


def over_depth(
    frame: pl.DataFrame, column: str, label: str, name: str, title: str, help: str, levels: dict[str, float]
) -> list[Plot]:
    """One line per component type over depth, a panel per family; the components outside the blocks in a last panel."""
    panels, rest = data.lines(frame, column), data.outside(frame)
    count = len(panels) + (len(rest) > 0)
    if not panels:
        return []

    def draw(figure: Any) -> None:
        heights = [3.0] * len(panels) + ([0.5 + 0.22 * len(rest)] if len(rest) else [])
        grid = figure.subplots(count, 1, squeeze=False, height_ratios=heights)[:, 0]
        low, high = _limits(frame, column, levels)
        for axes, (family, lines) in zip(grid, panels.items(), strict=False):
            for i, line in enumerate(lines):
                axes.plot(
                    line.depth,
                    line.value,
                    color=data.CYCLE[i % len(data.CYCLE)],
                    marker=_MARKERS[i % len(_MARKERS)],
                    linestyle=_DASHES[(i // len(data.CYCLE)) % len(_DASHES)],
                    markersize=4,
                    linewidth=1.3,
                    label=line.name,
                )
            _references(axes, levels)
            axes.set(title=data.FAMILY_NAMES[family], ylabel=label, ylim=(low, high))
            _depth_axis(axes, _last_depth(frame))
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        grid[len(panels) - 1].set_xlabel(data.DEPTH)
        if len(rest):
            _dots(grid[-1], rest, column, label, levels, (low, high))

    return [_plot(name, title, help, (10, 2.7 * len(panels) + 0.6 + 0.3 * len(rest)), draw)]


def _limits(frame: pl.DataFrame, column: str, levels: dict[str, float]) -> tuple[float, float]:
    found = data.values(frame[column])
    found = np.append(found[~np.isnan(found)], list(levels.values()))
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    margin = max(0.05 * (high - low), 0.005)
    return low - margin, high + margin


def _dots(
    axes: Any, rest: pl.DataFrame, column: str, label: str, levels: dict[str, float], limits: tuple[float, float]
) -> None:
    places = np.arange(len(rest))
    colours = [data.FAMILY_COLOURS[name] for name in rest["family"]]
    axes.scatter(data.values(rest[column]), places, c=colours, s=30, zorder=3)
    for level, dash in zip(levels.values(), _REFERENCE_DASHES, strict=False):
        axes.axvline(level, color=data.GREY, linestyle=dash, linewidth=1, zorder=1)
    axes.set_yticks(places, rest["component_type"].to_list())
    axes.set(title=data.OUTSIDE, xlabel=label, xlim=limits, ylim=(len(rest) - 0.4, -0.6))


def bars(frame: pl.DataFrame, column: str, label: str, name: str, title: str, help: str) -> list[Plot]:
    """One bar per component over depth, a row per component type, coloured by family."""
    rows = [line for lines in data.lines(frame, column).values() for line in lines]
    if not rows:
        return []

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        grid = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, line in zip(grid, rows, strict=True):
            axes.bar(line.depth, line.value, color=data.FAMILY_COLOURS[line.family], width=0.8)
            axes.set_ylabel(line.name, rotation=0, ha="right", va="center")
            axes.grid(axis="x", visible=False)
            _depth_axis(axes, _last_depth(frame))
        grid[-1].set_xlabel(data.DEPTH)
        shown = [f for f in FAMILIES if any(line.family == f for line in rows)]
        handles = [Patch(color=data.FAMILY_COLOURS[f], label=data.FAMILY_NAMES[f]) for f in shown]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(shown), title=label, alignment="left")

    return [_plot(name, title, help, (10, 0.8 * len(rows) + 1.4), draw)]


def attention_against_mlp(
    frame: pl.DataFrame, column: str, label: str, name: str, title: str, help: str, levels: dict[str, float]
) -> list[Plot]:
    """Mean of attention's and the MLP's components over depth, with the range between their extremes."""
    bands = data.family_bands(frame, column)
    if not bands:
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for marker, (family, band) in zip("os", bands.items(), strict=False):
            colour, depth = data.FAMILY_COLOURS[family], band["depth"].to_numpy()
            axes.fill_between(depth, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                depth,
                band["mean"],
                color=colour,
                marker=marker,
                markersize=5,
                label=f"{data.FAMILY_NAMES[family]}, mean",
            )
        _references(axes, levels)
        axes.set(xlabel=data.DEPTH, ylabel=label)
        _depth_axis(axes, _last_depth(frame))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return [_plot(name, title, help, (10, 3.6), draw)]


def box_by_size(frame: pl.DataFrame, column: str, label: str, name: str, title: str, help: str) -> list[Plot]:
    """Distribution over the components of each number of parameters, ascending; left out where sizes are unknown."""
    groups = data.by_size(frame, column)
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
            medianprops={"color": data.BLACK, "linewidth": 1.5},
            boxprops={"color": data.GREY},
            whiskerprops={"color": data.GREY},
            capprops={"color": data.GREY},
        )
        for place, (_, _, values, _) in zip(places, groups, strict=True):
            # A fixed fan instead of random jitter: the same table gives the same picture.
            spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            axes.scatter(values, place + spread, s=14, color=data.BLUE, alpha=0.6, linewidth=0, zorder=3)
        axes.set_yticks(places, [f"{data.number(size)}\n{_short(kinds)}" for size, kinds, _, _ in groups])
        axes.set(xlabel=label, ylabel="parameters of a component", ylim=(len(groups) - 0.4, -0.6))

    return [_plot(name, title, help, (10, 0.75 * len(groups) + 1.3), draw)]


def _short(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(",", 1)[0] + ", …"


def greedy(frame: pl.DataFrame, retrieval: pl.DataFrame | None, setting: str) -> list[Plot]:
    """Greedy curves by both criteria against the cumulated share of parameters (the round, where sizes are unknown)."""
    curves = [data.greedy_curves(frame, retrieval, criterion) for criterion in ("agreement", "accuracy")]
    if not all(len(curve.same) for curve in curves):
        return []

    def draw(figure: Any) -> None:
        grid = figure.subplots(1, 2)
        for axes, curve in zip(grid, curves, strict=True):
            _greedy_panel(axes, curve)
        handles, labels = grid[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3)

    title = f"Greedy selection of components ({data.setting_name(setting)})"
    return [_plot("greedy_selection", title, GREEDY_HELP, (10, 4.6), draw)]


def _greedy_panel(axes: Any, curve: data.GreedyCurves) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.plot(curve.same["x"], curve.same["value"], color=data.BLUE, marker="o", markersize=3, label="same ids")
    if len(curve.held_out):
        held = curve.held_out
        axes.fill_between(held["x"], held["low"], held["high"], color=data.VERMILION, alpha=0.15, linewidth=0)
        axes.plot(held["x"], held["value"], color=data.VERMILION, linestyle="--", label="held out, mean and range")
    for (name, x, value), marker in zip(curve.points, "D^vP", strict=False):
        axes.scatter(x, value, marker=marker, s=55, color=data.BLACK, label=name, zorder=4)
    if curve.level is not None:
        axes.axhline(curve.level, color=data.GREY, linestyle="-.", linewidth=1, label="full gradient")
    label = data.AGREEMENT if curve.criterion == "agreement" else data.ACCURACY
    axes.set(title=f"by {curve.criterion}", ylabel=label)
    if curve.by_share:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlabel("share of the parameters (%, log scale)")
    else:
        axes.set_xlabel("number of components (parameter counts are unknown)")


def single_samples(frame: pl.DataFrame, setting: str, count: int = 6) -> list[Plot]:
    """Similarity with the own original over all components, for the samples that diverge most."""
    samples = data.most_divergent(frame, count)
    if not samples:
        return []

    def draw(figure: Any) -> None:
        grid = figure.subplots((len(samples) + 1) // 2, 2, sharex=True, sharey=True, squeeze=False)
        for axes, rows in zip(grid.ravel(), samples, strict=False):
            _sample_panel(axes, rows)
        for axes in grid.ravel()[len(samples) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(data.SIMILARITY)
        for axes in grid.ravel()[max(len(samples) - 2, 0) : len(samples)]:
            axes.set_xlabel(data.DEPTH)
            axes.tick_params(labelbottom=True)
        shown: dict[str, Any] = {}
        for axes in grid.ravel()[: len(samples)]:
            handles, labels = axes.get_legend_handles_labels()
            shown.update(zip(labels, handles, strict=True))
        figure.legend(shown.values(), shown.keys(), loc="outside lower left", ncols=len(shown))

    title = f"Where best component and full gradient diverge most ({data.setting_name(setting)})"
    return [_plot("single_samples", title, SAMPLES_HELP, (10, 2.1 * ((len(samples) + 1) // 2) + 0.9), draw)]


def _sample_panel(axes: Any, rows: pl.DataFrame) -> None:
    inside = rows.filter(pl.col("depth").is_not_null())
    for family, marker in zip(FAMILIES, "osDv^", strict=True):
        part = inside.filter(family=family)
        if len(part):
            axes.scatter(
                part["depth"],
                data.values(part["similarity"]),
                s=11,
                marker=marker,
                color=data.FAMILY_COLOURS[family],
                alpha=0.8,
                linewidth=0,
                label=data.FAMILY_NAMES[family],
            )
    first = rows.row(0, named=True)
    axes.axhline(first["full_gradient"], color=data.BLACK, linestyle="--", linewidth=1, label="full gradient")
    axes.axhline(first["best_component"], color=data.ORANGE, linestyle="-", linewidth=1.2, label="best component")
    axes.set_title(f"{_short(first['variant_id'], 30)}, divergence {first['divergence']:.3f}")
    _depth_axis(axes, _last_depth(rows))


def retrieval(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """Accuracy of every method with its 95 % interval."""
    rows = frame.filter(pl.col("accuracy").is_not_null())
    if not len(rows):
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _accuracy_bars(axes, rows)
        axes.set_yticks(range(len(rows)), [data.method_name(name) for name in rows["method"]])
        axes.set(xlabel=data.ACCURACY, ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.12))
        axes.set_xticks(np.linspace(0, 1, 6))

    title = f"Finding the own original ({data.setting_name(setting)})"
    return [_plot("retrieval", title, RETRIEVAL_HELP, (10, 0.42 * len(rows) + 1.1), draw)]


def _accuracy_bars(axes: Any, rows: pl.DataFrame) -> None:
    accuracy = rows["accuracy"].to_numpy()
    colours = [data.FAMILY_COLOURS["other"] if m in ("bm25", "chance") else data.BLUE for m in rows["method"]]
    axes.barh(range(len(rows)), accuracy, color=colours, height=0.65)
    low, high = data.values(rows["accuracy_low"]), data.values(rows["accuracy_high"])
    ends = np.where(np.isnan(high), accuracy, high)
    axes.errorbar(
        accuracy,
        np.arange(len(rows)),
        xerr=np.nan_to_num([accuracy - low, high - accuracy]).clip(0),
        fmt="none",
        ecolor=data.BLACK,
        elinewidth=1,
        capsize=3,
    )
    for place, (value, end) in enumerate(zip(accuracy, ends, strict=True)):
        axes.text(end + 0.012, place, f"{value:.3f}", va="center", fontsize=8)
    axes.grid(axis="y", visible=False)


def parameters(frame: pl.DataFrame) -> list[Plot]:
    """Parameters of each component type, summed over its tensors; left out where sizes are unknown."""
    if not len(frame) or frame["parameters"].null_count():
        return []
    rows = (
        data.with_family(frame)
        .group_by("component_type", "family", maintain_order=True)
        .agg(pl.col("parameters").sum(), pl.col("share").sum(), pl.len().alias("tensors"))
        .sort("parameters", descending=True, maintain_order=True)
    )

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        axes = figure.subplots()
        share = 100 * rows["share"].to_numpy()
        colours = [data.FAMILY_COLOURS[name] for name in rows["family"]]
        axes.barh(range(len(rows)), share, color=colours, height=0.7)
        for place, row in enumerate(rows.rows(named=True)):
            each = "" if row["tensors"] == 1 else f" in {row['tensors']} tensors"
            axes.text(share[place] + share.max() * 0.01, place, f"{data.number(row['parameters'])}{each}", va="center")
        axes.set_yticks(range(len(rows)), rows["component_type"].to_list())
        axes.set(xlabel="share of the parameters (%)", ylim=(len(rows) - 0.4, -0.6), xlim=(0, share.max() * 1.25))
        axes.grid(axis="y", visible=False)
        shown = [name for name in FAMILIES if name in set(rows["family"])]
        handles = [Patch(color=data.FAMILY_COLOURS[name], label=data.FAMILY_NAMES[name]) for name in shown]
        axes.legend(handles=handles, loc="lower right")

    title = f"Where the {data.number(float(frame['parameters'].sum()))} parameters are"
    return [_plot("parameters", title, PARAMETERS_HELP, (10, 0.3 * len(rows) + 1.2), draw)]


def comparison(frame: pl.DataFrame) -> list[Plot]:
    """Accuracy of every model by method, a panel per setting, with 95 % intervals."""
    rows = frame.filter(pl.col("accuracy").is_not_null())
    settings, models = (rows[name].unique(maintain_order=True).to_list() for name in ("setting", "model"))
    methods = rows["method"].unique(maintain_order=True).to_list()
    if not models:
        return []

    def draw(figure: Any) -> None:
        grid = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
        for axes, setting in zip(grid, settings, strict=True):
            for i, method in enumerate(methods):
                _comparison_points(axes, rows.filter(setting=setting, method=method), models, i, len(methods))
            axes.set(title=data.setting_name(setting), xlabel=data.ACCURACY)
            axes.set_yticks(range(len(models)), [_short(name, 40) for name in models])
            axes.set_ylim(len(models) - 0.4, -0.6)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(len(methods), 6))

    height = max(0.12 * len(methods) * len(models), 0.6) + 1.6
    return [_plot("model_comparison", "Models compared", COMPARISON_HELP, (10, height), draw)]


def _comparison_points(axes: Any, rows: pl.DataFrame, models: Sequence[str], i: int, count: int) -> None:
    places = np.array([models.index(name) for name in rows["model"]]) + 0.7 * ((i + 0.5) / count - 0.5)
    accuracy = rows["accuracy"].to_numpy()
    low, high = data.values(rows["accuracy_low"]), data.values(rows["accuracy_high"])
    axes.errorbar(
        accuracy,
        places,
        xerr=np.nan_to_num([accuracy - low, high - accuracy]).clip(0),
        color=data.CYCLE[i % len(data.CYCLE)],
        marker=_MARKERS[i % len(_MARKERS)],
        linestyle="none",
        markersize=5,
        elinewidth=1,
        label=data.method_name(rows["method"][0]) if len(rows) else None,
    )


GREEDY_HELP = (
    "Each point adds the component that raises the criterion most. Where the curve meets the full gradient's line, that "
    "share of the parameters does the work of all; the held-out curve is selected on one half of the samples and scored "
    "on the other, so only it is free of selection bias."
)
SAMPLES_HELP = (
    "Each point is one component's similarity between a variant and its own original; samples whose points spread far "
    "around the full gradient's line are those where single components see what the whole gradient drowns."
)
RETRIEVAL_HELP = (
    "Share of variants whose own original has the strictly highest similarity among its candidates, with the 95 % "
    "bootstrap interval; the best component is chosen on the same variants, so its bar is optimistic."
)
PARAMETERS_HELP = "How the parameters are shared out; large component types dominate the full gradient's similarity."
COMPARISON_HELP = "Accuracy of every method for every model; intervals are 95 % bootstrap intervals over the variants."
ACCURACY_HELP = (
    "How often a single component's gradient finds the own original; above the full gradient's line a component alone "
    "does better than all together, at the line of chance it knows nothing."
)
BAND_HELP = "Mean over the components of a block; the band spans the lowest and the highest of them."
BOX_HELP = (
    "Each point is a component; a box spans the middle half of a size's components, its line is their median. Values that "
    "rise from top to bottom mean that larger components do better."
)
AGREEMENT_HELP = (
    "How closely a single component's similarities follow the full gradient's over all pairs; at 1 the component could "
    "stand in for the whole gradient."
)


def accuracy(frame: pl.DataFrame, retrieval: pl.DataFrame | None, setting: str) -> list[Plot]:
    """All plots of `accuracy_per_component`."""
    return _per_component(frame, "accuracy", data.ACCURACY, setting, ACCURACY_HELP, data.references(retrieval))


def agreement(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """All plots of `agreement`."""
    return _per_component(frame, "agreement", data.AGREEMENT, setting, AGREEMENT_HELP, {})


def _per_component(
    frame: pl.DataFrame, column: str, label: str, setting: str, help: str, levels: dict[str, float]
) -> list[Plot]:
    where = f"({data.setting_name(setting)})"
    what = column.capitalize()
    return [
        *over_depth(frame, column, label, f"{column}_over_depth", f"{what} of each component {where}", help, levels),
        *bars(frame, column, label, f"{column}_bars", f"{what} of each component type over depth {where}", help),
        *attention_against_mlp(
            frame,
            column,
            label,
            f"{column}_attention_mlp",
            f"{what}: attention against MLP {where}",
            BAND_HELP,
            levels,
        ),
        *box_by_size(
            frame,
            column,
            label,
            f"{column}_by_parameters",
            f"{what} by number of parameters {where}",
            BOX_HELP,
        ),
    ]
