"""Static plots (matplotlib): PNG for the UI's metadata, SVG for papers.

Every function takes tables as their schemas describe them and returns a list of plots; a plot that its table cannot
give (no sizes, no rows) is left out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import pair_matrix as matrices
from gradsim_assets.core.analysis.plots import palette, series, wording
from gradsim_assets.core.analysis.plots.panels import (
    PerComponent,
    Plot,
    as_plot,
    attention_against_mlp,
    bars,
    box_by_size,
    depth_axis,
    last_depth,
    over_depth,
)
from gradsim_assets.core.components import FAMILIES
from gradsim_assets.core.evaluation.tail_patch import tail_patch_summary


def greedy(frame: pl.DataFrame, retrieval: pl.DataFrame | None, setting: str) -> list[Plot]:
    """Greedy curves by both criteria against the cumulated share of parameters (the round, where sizes are unknown)."""
    curves = [series.greedy_curves(frame, retrieval, criterion) for criterion in ("agreement", "accuracy")]
    if not all(len(curve.same) for curve in curves):
        return []

    def draw(figure: Any) -> None:
        grid = figure.subplots(1, 2)
        for axes, curve in zip(grid, curves, strict=True):
            _greedy_panel(axes, curve)
        handles, labels = grid[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3)

    return [as_plot("greedy_selection", setting, (10, 4.6), draw)]


def _greedy_panel(axes: Any, curve: series.GreedyCurves) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.plot(
        curve.same["x"], curve.same["value"], color=palette.BLUE, marker="o", markersize=3, label=wording.SAME_IDS
    )
    if len(curve.held_out):
        held = curve.held_out
        area = {"color": palette.VERMILION, "alpha": palette.AREA, "linewidth": 0, "label": wording.HELD_OUT_RANGE}
        axes.fill_between(held["x"], held["low"], held["high"], **area)
        axes.plot(held["x"], held["value"], color=palette.VERMILION, linestyle="--", label=wording.HELD_OUT)
    for place, (name, x, value) in enumerate(curve.points):
        axes.scatter(
            x, value, marker=palette.point_style(place).marker, s=55, color=palette.BLACK, label=name, zorder=4
        )
    if curve.level is not None:
        style = palette.REFERENCE_STYLES[0]
        label = wording.FULL_GRADIENT
        axes.axhline(curve.level, color=style.colour, linestyle=style.dash, linewidth=1, label=label)
    axes.set(title=wording.by_criterion(curve.criterion), ylabel=wording.LABELS[curve.criterion])
    if curve.by_share:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlabel(wording.SHARE)
    else:
        axes.set_xlabel(wording.ROUNDS)


def single_samples(frame: pl.DataFrame, setting: str, count: int = 6) -> list[Plot]:
    """Similarity with the own original over all components, for the samples that diverge most."""
    samples = series.most_divergent(frame, count)
    if not samples:
        return []

    def draw(figure: Any) -> None:
        grid = figure.subplots((len(samples) + 1) // 2, 2, sharex=True, sharey=True, squeeze=False)
        for axes, rows in zip(grid.ravel(), samples, strict=False):
            _sample_panel(axes, rows)
        for axes in grid.ravel()[len(samples) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(wording.SIMILARITY)
        for axes in grid.ravel()[max(len(samples) - 2, 0) : len(samples)]:
            axes.set_xlabel(wording.DEPTH)
            axes.tick_params(labelbottom=True)
        shown: dict[str, Any] = {}
        for axes in grid.ravel()[: len(samples)]:
            handles, labels = axes.get_legend_handles_labels()
            shown.update(zip(labels, handles, strict=True))
        figure.legend(shown.values(), shown.keys(), loc="outside lower left", ncols=len(shown))

    return [as_plot("single_samples", setting, (10, 2.1 * ((len(samples) + 1) // 2) + 0.9), draw)]


def _sample_panel(axes: Any, rows: pl.DataFrame) -> None:
    inside = rows.filter(pl.col("depth").is_not_null())
    for family, style in palette.FAMILY_STYLES.items():
        part = inside.filter(family=family)
        if len(part):
            axes.scatter(
                part["depth"],
                series.values(part["similarity"]),
                s=11,
                marker=style.marker,
                color=style.colour,
                alpha=0.8,
                linewidth=0,
                label=wording.FAMILY_NAMES[family],
            )
    first = rows.row(0, named=True)
    full, best = wording.FULL_GRADIENT, wording.BEST_COMPONENT
    axes.axhline(first["full_gradient"], color=palette.BLACK, linestyle="--", linewidth=1, label=full)
    axes.axhline(first["best_component"], color=palette.ORANGE, linestyle="-", linewidth=1.2, label=best)
    axes.set_title(f"{wording.short_name(first['variant_id'], 30)}, divergence {first['divergence']:.3f}")
    depth_axis(axes, last_depth(rows))


def retrieval(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """Accuracy of every method with its 95 % interval."""
    return _accuracies("retrieval", frame.filter(pl.col("accuracy").is_not_null()), setting)


def controls(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """Accuracy of the model and of each of its controls with its 95 % interval."""
    return _accuracies("controls", series.beside_controls(frame), setting)


def _accuracies(name: str, rows: pl.DataFrame, setting: str) -> list[Plot]:
    if not len(rows):
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        _bars(axes, rows, "accuracy", "{:.3f}", 0.012)
        axes.set_yticks(range(len(rows)), [wording.method_name(name) for name in rows["method"]])
        axes.set(xlabel=wording.ACCURACY, ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.12))
        axes.set_xticks(np.linspace(0, 1, 6))

    return [as_plot(name, setting, (10, 0.42 * len(rows) + 1.1), draw)]


def _bars(axes: Any, rows: pl.DataFrame, column: str, shown: str, gap: float) -> None:
    """A bar for each method with its interval, and its figure (`shown` is its format) a gap behind the end."""
    found = rows[column].to_numpy()
    axes.barh(range(len(rows)), found, color=[palette.method_colour(m) for m in rows["method"]], height=0.65)
    low, high = series.values(rows[f"{column}_low"]), series.values(rows[f"{column}_high"])
    ends = np.where(np.isnan(high), found, high)
    axes.errorbar(
        found,
        np.arange(len(rows)),
        xerr=series.whiskers(found, low, high),
        fmt="none",
        ecolor=palette.BLACK,
        elinewidth=1,
        capsize=3,
    )
    for place, (value, end) in enumerate(zip(found, ends, strict=True)):
        axes.text(end + gap, place, shown.format(value), va="center", fontsize=8)
    axes.grid(axis="y", visible=False)


def pair_matrix(frame: pl.DataFrame | pl.LazyFrame, setting: str) -> list[Plot]:
    """All pairs as a heat map, and beside it histograms of the own pairs and the others; left out where not all were compared."""
    matrix = matrices.pair_matrix(frame)
    if matrix is None:
        return []

    def draw(figure: Any) -> None:
        cells, spread = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _cells(figure, cells, matrix)
        _spread(spread, matrix)

    return [as_plot("pair_matrix", setting, (10, 4.6), draw)]


def _cells(figure: Any, axes: Any, matrix: matrices.PairMatrix) -> None:
    low, high = matrix.scale.cells
    image = axes.imshow(matrix.cells, cmap=palette.HEAT, aspect="auto", interpolation="none", vmin=low, vmax=high)
    rows, columns = matrix.rows, matrix.columns
    axes.set_xlabel(wording.pair_axis("originals", columns.samples, columns.share, "column"))
    axes.set_ylabel(wording.pair_axis("variants", rows.samples, rows.share, "row"))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=wording.HIGHEST if matrix.is_binned else wording.SIMILARITY)


def _spread(axes: Any, matrix: matrices.PairMatrix) -> None:
    edges, own, others = matrices.bars(matrix, matrix.scale)
    for name, style, share in ((wording.OTHER, palette.OTHER_STYLE, others), (wording.OWN, palette.OWN_STYLE, own)):
        axes.stairs(share, edges, fill=True, color=style.colour, alpha=palette.BARS, linewidth=0, label=name)
    axes.set(xlabel=wording.SIMILARITY, ylabel=wording.PAIRS)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def first_order(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """Measured against predicted changes of the loss, own originals apart from others, with the line of equality."""
    if not len(frame):
        return []

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        ends = series.ends_of(frame, "predicted", "measured")
        axes.plot(ends, ends, color=palette.GREY, linestyle="--", linewidth=1, label=wording.AS_PREDICTED)
        for name, rows, style in series.own_and_others(frame):
            axes.scatter(
                rows["predicted"], rows["measured"], s=22, color=style.colour, marker=style.marker, label=name, zorder=3
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set(xlabel=wording.PREDICTED, ylabel=wording.MEASURED)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    return [as_plot("first_order", setting, (8, 4.6), draw)]


def tail_patch(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """The mean change of every method with its 95 % interval."""
    return _signed_bars("tail_patch", setting, tail_patch_summary(frame), "change", "{:.3g}", wording.CHANGE)


def _signed_bars(name: str, setting: str, rows: pl.DataFrame, column: str, shown: str, label: str) -> list[Plot]:
    """A bar for each method whose figure is known, of either sign, with its interval."""
    known = rows.filter(pl.col(column).is_not_null())
    if not len(known):
        return []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        low, high = series.ends_of(known, column, f"{column}_low", f"{column}_high")
        _bars(axes, known, column, shown, 0.012 * (high - low))
        axes.set_yticks(range(len(known)), [wording.method_name(name) for name in known["method"]])
        axes.set(xlabel=label, ylim=(len(known) - 0.4, -0.6))
        axes.margins(x=0.12)

    return [as_plot(name, setting, (10, 0.42 * len(known) + 1.1), draw)]


def parameters(frame: pl.DataFrame) -> list[Plot]:
    """Parameters of each component type, summed over its tensors; left out where sizes are unknown."""
    if not len(frame) or frame["parameters"].null_count():
        return []
    rows = (
        series.with_family(frame)
        .group_by("component_type", "family", maintain_order=True)
        .agg(pl.col("parameters").sum(), pl.col("share").sum(), pl.len().alias("tensors"))
        .sort("parameters", descending=True, maintain_order=True)
    )

    total = float(frame["parameters"].sum())

    def draw(figure: Any) -> None:
        from matplotlib.patches import Patch

        axes = figure.subplots()
        share = 100 * rows["share"].to_numpy()
        colours = [palette.FAMILY_STYLES[name].colour for name in rows["family"]]
        axes.barh(range(len(rows)), share, color=colours, height=0.7)
        for place, row in enumerate(rows.rows(named=True)):
            each = "" if row["tensors"] == 1 else f" in {row['tensors']} tensors"
            axes.text(
                share[place] + share.max() * 0.01, place, f"{wording.number(row['parameters'])}{each}", va="center"
            )
        axes.set_yticks(range(len(rows)), rows["component_type"].to_list())
        axes.set(xlabel=wording.share_of(total), ylim=(len(rows) - 0.4, -0.6), xlim=(0, share.max() * 1.25))
        axes.grid(axis="y", visible=False)
        shown = [name for name in FAMILIES if name in set(rows["family"])]
        handles = [Patch(color=palette.FAMILY_STYLES[name].colour, label=wording.FAMILY_NAMES[name]) for name in shown]
        axes.legend(handles=handles, loc="lower right")

    return [as_plot("parameters", "", (10, 0.3 * len(rows) + 1.2), draw)]


def linear_datamodeling_score(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """The score of every method with its 95 % interval, and that of every component over depth."""
    shown = PerComponent(series.lds_components(frame), "lds", setting, series.lds_levels(frame))
    rows = series.lds_methods(frame)
    return [*_signed_bars("linear_datamodeling_score", setting, rows, "lds", "{:.3f}", wording.LDS), *over_depth(shown)]


def removal(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """The mean increase of the loss by every method with its 95 % interval."""
    return _signed_bars("removal", setting, frame, "loss_increase", "{:.3g}", wording.INCREASE)


def comparison(frame: pl.DataFrame) -> list[Plot]:
    """Accuracy of every model by method, a panel per setting, with 95 % intervals; every figure of checkpoints over their steps.

    Of a run's checkpoints the last one stands beside other models.
    """
    return [*_beside_one_another(series.without_earlier(frame)), *_over_steps(frame)]


def _beside_one_another(frame: pl.DataFrame) -> list[Plot]:
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
            axes.set(title=wording.setting_name(setting), xlabel=wording.ACCURACY)
            axes.set_yticks(range(len(models)), [wording.short_name(name, 40) for name in models])
            axes.set_ylim(len(models) - 0.4, -0.6)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(len(methods), 6))

    height = max(0.12 * len(methods) * len(models), 0.6) + 1.6
    return [as_plot("model_comparison", "", (10, height), draw)]


def _comparison_points(axes: Any, rows: pl.DataFrame, models: Sequence[str], i: int, count: int) -> None:
    places = np.array([models.index(name) for name in rows["model"]]) + 0.7 * ((i + 0.5) / count - 0.5)
    accuracy = rows["accuracy"].to_numpy()
    low, high = series.values(rows["accuracy_low"]), series.values(rows["accuracy_high"])
    axes.errorbar(
        accuracy,
        places,
        xerr=series.whiskers(accuracy, low, high),
        color=palette.style(i).colour,
        marker=palette.style(i).marker,
        linestyle="none",
        markersize=5,
        elinewidth=1,
        label=wording.method_name(rows["method"][0]) if len(rows) else None,
    )


def _over_steps(frame: pl.DataFrame) -> list[Plot]:
    """A row of panels for every run and setting, one for each figure, with a line for each method and its 95 % intervals."""
    parts = series.trajectories(frame)
    if not parts:
        return []
    columns = [name for name in series.OVER_STEPS if any(part[name].is_not_null().any() for part in parts.values())]
    methods = list(dict.fromkeys(name for part in parts.values() for name in part["method"]))

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(parts), len(columns), squeeze=False, sharey="col")
        for row, ((run, setting), part) in zip(grid, parts.items(), strict=True):
            for axes, column in zip(row, columns, strict=True):
                for place, method in enumerate(methods):
                    _line_over_steps(axes, part.filter(method=method), column, place)
                axes.set(ylabel=wording.LABELS[column], xlabel=wording.STEP)
            row[0].set_title(f"{wording.end_of(run)} ({wording.setting_name(setting)})")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(len(methods), 6))

    return [as_plot("over_steps", "", (10, 2.6 * len(parts) + 1), draw)]


def _line_over_steps(axes: Any, rows: pl.DataFrame, column: str, place: int) -> None:
    """One method's figure over steps, with the area of its intervals."""
    shown = rows.filter(pl.col(column).is_not_null())
    if not len(shown):
        return
    style = palette.style(place)
    axes.plot(
        shown["step"],
        shown[column],
        color=style.colour,
        marker=style.marker,
        markersize=4,
        label=wording.method_name(shown["method"][0]),
    )
    low, high = (series.values(shown[f"{column}_{end}"]) for end in ("low", "high"))
    axes.fill_between(shown["step"], low, high, color=style.colour, alpha=palette.AREA, linewidth=0)


def accuracy(frame: pl.DataFrame, retrieval: pl.DataFrame | None, setting: str) -> list[Plot]:
    """All plots of `accuracy_per_component`."""
    return _per_component(PerComponent(frame, "accuracy", setting, series.references(retrieval)))


def agreement(frame: pl.DataFrame, setting: str) -> list[Plot]:
    """All plots of `agreement`."""
    return _per_component(PerComponent(frame, "agreement", setting))


def _per_component(shown: PerComponent) -> list[Plot]:
    return [plot for draw in (over_depth, bars, attention_against_mlp, box_by_size) for plot in draw(shown)]
