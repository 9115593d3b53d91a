"""Interactive plots (plotly) for the report: each function returns a figure as JSON that plotly.js draws, or None."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import pair_matrix as matrices
from gradsim_assets.core.analysis.plots import palette, series, wording
from gradsim_assets.core.evaluation.tail_patch import tail_patch_summary

_PAIR = ("variant_id", "original_id")


def _figure(height: int, base: Any = None, **layout: Any) -> Any:
    import plotly.graph_objects as go

    axis = {
        "gridcolor": palette.GRID,
        "zeroline": False,
        "linecolor": palette.AXIS,
        "ticks": "outside",
        "automargin": True,
    }
    figure = go.Figure() if base is None else base
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 15, "t": 15, "b": 50},
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": palette.INK},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        template="none",
        hovermode="closest",
        dragmode=False,  # a finger that scrolls the page must not draw a zoom box
    )
    figure.update_layout(**layout)
    figure.update_xaxes(title_font_size=14, **axis)
    figure.update_yaxes(title_font_size=14, **axis)
    return figure


def _json(figure: Any) -> str:
    return figure.to_json()


def _levels(figure: Any, levels: dict[str, float], x: tuple[float, float], **where: Any) -> None:
    for (name, level), style in zip(levels.items(), palette.REFERENCE_STYLES, strict=False):
        figure.add_scatter(
            x=list(x),
            y=[level, level],
            mode="lines",
            line={"color": style.colour, "dash": style.line, "width": 1.5},
            name=name,
            hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>",
            **where,
        )


def _whiskers(value: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> dict[str, Any]:
    """The intervals of points, thin enough to leave these in sight."""
    below, above = series.whiskers(value, low, high)
    shade = f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, {palette.WHISKER})"
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.2,
        "width": 0,
        "color": shade,
    }


def _hover(components: Sequence[str], low: np.ndarray, high: np.ndarray) -> list[str]:
    """What is said of each component beside its figure: its name, and its interval where it has one."""
    return [
        name if np.isnan(a) else f"{name}<br>{wording.interval(a, b, 4)}"
        for name, a, b in zip(components, low, high, strict=True)
    ]


def over_depth(frame: pl.DataFrame, column: str, levels: dict[str, float]) -> str | None:
    """One line per component type over depth: types apart by colour and symbol, families by dash; a panel for each type where there
    are so many blocks that lines would run into each other."""
    panels = series.lines(frame, column)
    if not panels:
        return None
    if max(int(line.depth.max(initial=0)) for lines in panels.values() for line in lines) >= MOST_BLOCKS:
        return _small_multiples(frame, column, levels)
    figure = _figure(520, xaxis_title=wording.DEPTH, yaxis_title=wording.LABELS[column])
    found = [line for lines in panels.values() for line in lines]
    for line in found:
        style = palette.style(line.place, line.family)
        figure.add_scatter(
            x=line.x,
            y=line.value,
            error_y=_whiskers(line.value, line.low, line.high, style.colour),
            mode="lines+markers",
            name=line.name,
            line={"color": style.colour, "dash": style.line, "width": 1.5},
            marker={"symbol": style.symbol, "size": 7},
            customdata=line.components,
            text=_hover(line.components, line.low, line.high),
            visible=True if line.family in ("attention", "mlp") else "legendonly",
            hovertemplate=_VALUE_Y,
        )
    last = max(int(line.depth.max(initial=0)) for line in found)
    rest = series.outside(series.with_interval(frame, column))
    places = series.outside_places(frame)
    if len(rest):
        _outside(figure, rest, column, places)
    figure.update_xaxes(**_ticks(last, places))
    _levels(figure, levels, (0, last))
    return _json(figure)


#: Blocks up to which the lines of all component types stand in one picture.
MOST_BLOCKS = 8

#: Panels beside each other, and the height of one in pixels.
_COLUMNS, _PANEL = 2, 118


def _small_multiples(frame: pl.DataFrame, column: str, levels: dict[str, float]) -> str:
    """A panel for every component type, all on one scale, in the colour of its family and with the area of its intervals; what
    stands outside the blocks is a point at its place in every panel of its own name."""
    from plotly.subplots import make_subplots

    found = [line for lines in series.lines(frame, column).values() for line in lines]
    rest, places = series.outside(series.with_interval(frame, column)), series.outside_places(frame)
    titles = [line.name for line in found] + rest["component_type"].to_list()
    rows = -(-len(titles) // _COLUMNS)
    gap = 26 / (_PANEL * rows)
    grid = make_subplots(
        rows, _COLUMNS, shared_xaxes="all", shared_yaxes="all", subplot_titles=titles, vertical_spacing=min(gap, 0.9 / rows)
    )  # fmt: skip
    figure = _figure(90 + _PANEL * rows, grid, margin={"l": 68, "r": 15, "t": 28, "b": 70})
    figure.update_annotations(font={"size": 12, "color": palette.INK}, yshift=-2)
    last = max(int(line.depth.max(initial=0)) for line in found)
    for place, line in enumerate(found):
        _panel(figure, line, row=place // _COLUMNS + 1, col=place % _COLUMNS + 1)
    for place, (row, x) in enumerate(zip(rest.iter_rows(named=True), places, strict=True), len(found)):
        where = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        one = pl.DataFrame([row], schema=rest.schema)
        _outside(figure, one, column, [x], showlegend=False, **where)
    for place in range(len(titles)):
        where = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        _levels(figure, levels, (0, last), showlegend=place == 0, **where)
    figure.update_xaxes(**_ticks(last, places, 6), tickangle=0, range=[-1.7, last + 1.7], title_text=None)
    figure.update_yaxes(nticks=4, range=_span(frame, column, levels))
    for place in range(max(0, len(titles) - _COLUMNS), len(titles)):
        where = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        figure.update_xaxes(title_text=wording.DEPTH, showticklabels=True, title_font_size=12, **where)
    figure.add_annotation(
        text=wording.LABELS[column],
        xref="paper",
        yref="paper",
        x=0,
        y=0.5,
        xshift=-44,
        textangle=-90,
        showarrow=False,
        font={"size": 13, "color": palette.INK},
    )
    return _json(figure)


def _panel(figure: Any, line: series.Line, **where: int) -> None:
    """One component type with the area of its intervals."""
    style = palette.FAMILY_STYLES[line.family]
    known = ~np.isnan(line.low) & ~np.isnan(line.high)
    if known.any():
        depth = line.depth[known]
        figure.add_scatter(
            x=[*depth.tolist(), *depth[::-1].tolist()],
            y=[*line.high[known].tolist(), *line.low[known][::-1].tolist()],
            mode="lines",
            fill="toself",
            fillcolor=style.colour,
            opacity=palette.AREA,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            **where,
        )
    figure.add_scatter(
        x=line.depth,
        y=line.value,
        mode="lines+markers",
        name=line.name,
        line={"color": style.colour, "width": 1.5},
        marker={"symbol": style.symbol, "size": 4.5},
        customdata=line.components,
        text=_hover(line.components, line.low, line.high),
        hovertemplate=_VALUE_Y,
        showlegend=False,
        **where,
    )


_VALUE_Y = "%{y:.4f} %{text}<extra></extra>"


def _outside(figure: Any, rest: pl.DataFrame, column: str, places: list[int], **where: Any) -> None:
    value, low, high = (series.values(rest[name]) for name in (column, "low", "high"))
    components = rest["component"].to_list()
    figure.add_scatter(
        x=places,
        y=value,
        error_y=_whiskers(value, low, high, palette.BLACK),
        mode="markers",
        name=wording.OUTSIDE,
        marker={"symbol": "circle-open", "size": 9, "color": palette.BLACK, "line": {"width": 2}},
        customdata=components,
        text=_hover(components, low, high),
        hovertemplate=_VALUE_Y,
        **where,
    )


#: Numbers of blocks on an axis of a whole picture's width.
MOST_TICKS = 12


def _span(frame: pl.DataFrame, column: str, levels: dict[str, float]) -> list[float]:
    """What an axis shows of a figure with its intervals, and of the levels that it is compared with."""
    parts = series.with_interval(frame, column)
    found = np.concatenate([*(series.values(parts[name]) for name in (column, "low", "high")), list(levels.values())])
    low, high = float(np.nanmin(found)), float(np.nanmax(found))
    room = 0.06 * (high - low) or 0.05
    return [low - room, high + room]


def _ticks(last: int, places: list[int], most: int = MOST_TICKS) -> dict[str, Any]:
    # Block numbers, and the names of the places before the first block and after the last.
    every = max(1, -(-last // most))
    depths = list(range(0, last + 1, every))
    if most < MOST_TICKS:  # narrow: the names need the room of the numbers beside them
        near = every / 2
        depths = [d for d in depths if not (-1 in places and d < near) and not (last + 1 in places and d > last - near)]
    before, after = ([-1] if -1 in places else []), ([last + 1] if last + 1 in places else [])
    texts = ["in"] * len(before) + [str(depth) for depth in depths] + ["out"] * len(after)
    return {"tickvals": before + depths + after, "ticktext": texts}


def heatmap(frame: pl.DataFrame, column: str, scale: tuple[float, float] | None = None) -> str | None:
    """Component types against depth, and what stands outside the blocks before the first and after the last. `scale` has the ends
    of the colours, so that other maps can be compared."""
    rows = [line for lines in series.lines(frame, column).values() for line in lines]
    if not rows:
        return None
    rest, places = series.outside(series.with_interval(frame, column)), series.outside_places(frame)
    last = max(int(line.depth.max(initial=0)) for line in rows)
    depths = list(range(min([0, *places]), max([last, *places]) + 1))
    grid = np.full((len(rows) + len(rest), len(depths)), np.nan)
    names, said = np.full(grid.shape, "", dtype=object), np.full(grid.shape, "", dtype=object)
    for row, line in enumerate(rows):
        at = [int(depth) - depths[0] for depth in line.depth]
        grid[row, at], names[row, at] = line.value, line.components
        said[row, at] = _hover(line.components, line.low, line.high)
    value, low, high = (series.values(rest[name]) for name in (column, "low", "high"))
    for row, place in enumerate(places, len(rows)):
        one = slice(row - len(rows), row - len(rows) + 1)
        at_place = place - depths[0]
        grid[row, at_place], names[row, at_place] = value[one][0], rest["component"][one.start]
        said[row, at_place] = _hover(rest["component"][one].to_list(), low[one], high[one])[0]
    figure = _figure(110 + 24 * len(grid), xaxis_title=wording.DEPTH)
    figure.add_heatmap(
        x=depths,
        y=[*(line.name for line in rows), *rest["component_type"]],
        z=grid,
        zmin=None if scale is None else scale[0],
        zmax=None if scale is None else scale[1],
        customdata=names.tolist(),
        text=said.tolist(),
        colorscale=palette.HEAT,
        colorbar={"title": {"text": wording.LABELS[column], "side": "right", "font": {"size": 12}}, "thickness": 14},
        hovertemplate="%{z:.4f} %{text}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    figure.update_xaxes(showgrid=False, **_ticks(last, places))
    return _json(figure)


#: Pixels of the matrix of pairs and of the histograms below it, cells up to which a line parts them, and the room between both.
_MATRIX, _SPREAD, _PARTED, _BETWEEN = 430, 150, 40, 62


def pair_matrix(matrix: matrices.PairMatrix, scale: matrices.Scale) -> str:
    """All pairs as a heat map, and below it histograms of the own pairs and the others."""
    from plotly.subplots import make_subplots

    inside = _MATRIX + _BETWEEN + _SPREAD
    grid = make_subplots(2, 1, row_heights=[_MATRIX, _SPREAD], vertical_spacing=_BETWEEN / inside)
    figure = _figure(inside + 15 + 90, grid, barmode="overlay", bargap=0, margin={"l": 60, "r": 15, "t": 15, "b": 90})
    rows, columns = matrix.rows, matrix.columns
    parted = int(max(len(rows.labels), len(columns.labels)) <= _PARTED)
    title = wording.HIGHEST if matrix.is_binned else wording.SIMILARITY
    figure.add_heatmap(
        x=columns.labels,
        y=rows.labels,
        z=[[None if np.isnan(value) else value for value in line] for line in matrix.cells.tolist()],
        zmin=scale.cells[0],
        zmax=scale.cells[1],
        customdata=matrix.pairs,
        colorscale=palette.HEAT,
        colorbar={
            "title": {"text": title, "side": "right", "font": {"size": 12}},
            "thickness": 14,
            "len": _MATRIX / inside,
            "y": 1,
            "yanchor": "top",
        },
        name=wording.SIMILARITY,
        hovertemplate="%{z:.4f}<br>variant %{customdata[0]}<br>original %{customdata[1]}<extra></extra>",
        hoverongaps=False,
        xgap=parted,
        ygap=parted,
        row=1,
        col=1,
    )
    _spread(figure, matrix, scale)
    names = {"type": "category", "showticklabels": False, "showgrid": False, "ticks": "", "title_standoff": 8}
    figure.update_xaxes(
        title_text=wording.pair_axis("originals", columns.samples, columns.share, "column"), row=1, **names
    )
    title = wording.pair_axis("variants", rows.samples, rows.share, "row")
    figure.update_yaxes(title_text=title, autorange="reversed", row=1, **names)
    return _json(figure)


def _spread(figure: Any, matrix: matrices.PairMatrix, scale: matrices.Scale) -> None:
    """The histograms of the own pairs and of all others, of the same bars."""
    edges, *shares = matrices.bars(matrix, scale)
    ends = [f"{low:.3f} to {high:.3f}" for low, high in itertools.pairwise(edges)]
    shown = ((wording.OTHER, palette.OTHER_STYLE, shares[1]), (wording.OWN, palette.OWN_STYLE, shares[0]))
    for name, style, share in shown:
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=share,
            width=edges[1] - edges[0],
            name=name,
            marker={"color": style.colour, "line": {"width": 0}},
            opacity=palette.BARS,
            customdata=ends,
            hovertemplate=f"{name}: %{{y:.3g}} % from %{{customdata}}<extra></extra>",
            row=2,
            col=1,
        )
    figure.update_xaxes(title_text=wording.SIMILARITY, row=2)
    figure.update_yaxes(title_text=wording.PAIRS, row=2)


def attention_against_mlp(frame: pl.DataFrame, column: str, levels: dict[str, float]) -> str | None:
    """Means of attention's and the MLP's components over depth with the range between their extremes."""
    bands = series.family_bands(frame, column)
    if not bands:
        return None
    figure = _figure(420, xaxis_title=wording.DEPTH, yaxis_title=wording.LABELS[column])
    last = 0.0
    for family, band in bands.items():
        style, name = palette.FAMILY_STYLES[family], wording.FAMILY_NAMES[family]
        depth = band["depth"].to_list()
        last = max(last, *depth)
        figure.add_scatter(
            x=depth + depth[::-1],
            y=band["high"].to_list() + band["low"].to_list()[::-1],
            fill="toself",
            fillcolor=style.colour,
            opacity=palette.AREA,
            line={"width": 0},
            name=wording.range_of(family),
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=depth,
            y=band["mean"].to_list(),
            mode="lines+markers",
            line={"color": style.colour},
            marker={"symbol": style.symbol, "size": 7},
            name=wording.mean_of(family),
            hovertemplate=f"{name}, block %{{x}}<br>mean %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(**_ticks(int(last), []))
    _levels(figure, levels, (0, last))
    return _json(figure)


def box_by_size(frame: pl.DataFrame, column: str) -> str | None:
    """Box of each number of parameters with its components as points."""
    groups = series.boxes(frame, column)
    if not groups:
        return None
    height = max(280, 120 + 56 * len(groups))
    figure = _figure(height, xaxis_title=wording.LABELS[column], yaxis_title=wording.SIZE, showlegend=False)
    for place, group in enumerate(groups):
        if group.quartiles:
            low, first, median, third, high = group.quartiles
            figure.add_box(
                orientation="h",
                y=[place],
                lowerfence=[low],
                q1=[first],
                median=[median],
                q3=[third],
                upperfence=[high],
                width=0.6,
                line={"color": palette.GREY, "width": 1.2},
                fillcolor="rgba(0, 0, 0, 0)",
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=group.values,
            y=place + group.offsets,
            mode="markers",
            marker={"color": palette.BLUE, "size": 5, "opacity": 0.6},
            customdata=group.components,
            hovertemplate="%{x:.4f} %{customdata}<extra></extra>",
        )
    labels = [group.label.replace("\n", "<br>") for group in groups]
    figure.update_yaxes(
        tickvals=list(range(len(groups))), ticktext=labels, range=[len(groups) - 0.4, -0.6], showgrid=False
    )
    return _json(figure)


def greedy(greedy: pl.DataFrame, retrieval: pl.DataFrame | None, criterion: str) -> str | None:
    """Greedy curves of one criterion."""
    curve = series.greedy_curves(greedy, retrieval, criterion)
    if not len(curve.same):
        return None
    x_title = wording.SHARE if curve.by_share else wording.ROUNDS
    figure = _figure(440, xaxis_title=x_title, yaxis_title=wording.LABELS[criterion])
    if curve.by_share:
        figure.update_xaxes(type="log")
    if len(curve.held_out):
        _held_out(figure, curve.held_out)
    figure.add_scatter(
        x=curve.same["x"].to_list(),
        y=curve.same["value"].to_list(),
        mode="lines+markers",
        name=wording.SAME_IDS,
        line={"color": palette.BLUE},
        marker={"size": 5},
        customdata=curve.same["component"].to_list(),
        hovertemplate="+ %{customdata}<br>%{x:.3g}: %{y:.4f}<extra></extra>",
    )
    for place, (name, x, value) in enumerate(curve.points):
        figure.add_scatter(
            x=[x],
            y=[value],
            mode="markers",
            marker={"symbol": palette.point_style(place).symbol, "size": 12, "color": palette.BLACK},
            name=name,
            hovertemplate=f"{name}: %{{y:.4f}}<extra></extra>",
        )
    if curve.level is not None:
        ends = curve.same["x"]
        _levels(figure, {wording.FULL_GRADIENT: curve.level}, (float(ends[0]), float(ends[-1])))
    return _json(figure)


def _held_out(figure: Any, held: pl.DataFrame) -> None:
    x = held["x"].to_list()
    figure.add_scatter(
        x=x + x[::-1],
        y=held["high"].to_list() + held["low"].to_list()[::-1],
        fill="toself",
        fillcolor=palette.VERMILION,
        opacity=palette.AREA,
        line={"width": 0},
        name=wording.HELD_OUT_RANGE,
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=held["value"].to_list(),
        mode="lines",
        line={"color": palette.VERMILION, "dash": "dash"},
        name=wording.HELD_OUT,
        hovertemplate="%{x:.3g}: %{y:.4f}<extra></extra>",
    )


def retrieval(frame: pl.DataFrame) -> str | None:
    """Accuracy of every method with its interval."""
    return _accuracies(frame.filter(pl.col("accuracy").is_not_null()))


def controls(frame: pl.DataFrame) -> str | None:
    """Accuracy of the model and of each of its controls with its interval."""
    return _accuracies(series.beside_controls(frame))


def _accuracies(rows: pl.DataFrame) -> str | None:
    if not len(rows):
        return None
    figure = _bars(rows, "accuracy", wording.ACCURACY, ".3f")
    figure.update_xaxes(range=[0, 1.02])
    return _json(figure)


def _bars(rows: pl.DataFrame, column: str, title: str, shown: str) -> Any:
    """A figure with a bar for each method, its interval, and its number (`shown` is its format) beside its name."""
    found, low, high = (series.values(rows[name]) for name in (column, f"{column}_low", f"{column}_high"))
    figure = _figure(90 + 38 * len(rows), xaxis_title=title, showlegend=False)
    figure.add_bar(
        x=found,
        y=[f"{wording.method_name(m)}  <b>{value:{shown}}</b>" for m, value in zip(rows["method"], found, strict=True)],
        orientation="h",
        marker={"color": [palette.method_colour(name) for name in rows["method"]]},
        error_x={**_whiskers(found, low, high, palette.BLACK), "color": palette.BLACK, "width": 4},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    return figure


def first_order(frame: pl.DataFrame) -> str | None:
    """Measured against predicted changes of the loss, own originals apart from others, with the line of equality."""
    if not len(frame):
        return None
    figure = _figure(460, xaxis_title=wording.PREDICTED, yaxis_title=wording.MEASURED)
    ends = list(series.ends_of(frame, "predicted", "measured"))
    line = {"color": palette.GREY, "dash": "dash", "width": 1.5}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name=wording.AS_PREDICTED, hoverinfo="skip")
    for name, rows, style in series.own_and_others(frame):
        figure.add_scatter(
            x=rows["predicted"].to_numpy(),
            y=rows["measured"].to_numpy(),
            mode="markers",
            name=name,
            marker={"color": style.colour, "symbol": style.symbol, "size": 8},
            text=[f"{variant}, step on {original}" for variant, original in rows.select(*_PAIR).iter_rows()],
            hovertemplate="%{text}<br>predicted %{x:.4g}, measured %{y:.4g}<extra></extra>",
        )
    return _json(figure)


def linear_datamodeling_score(frame: pl.DataFrame) -> str | None:
    """The score of every method with its interval."""
    rows = series.lds_methods(frame)
    return _json(_bars(rows, "lds", wording.LDS, ".3f")) if len(rows) else None


def lds_over_depth(frame: pl.DataFrame) -> str | None:
    """The score of every component over depth."""
    return over_depth(series.lds_components(frame), "lds", series.lds_levels(frame))


def removal(frame: pl.DataFrame) -> str | None:
    """The mean increase of the loss by every method with its interval."""
    return _json(_bars(frame, "loss_increase", wording.INCREASE, ".3g")) if len(frame) else None


def tail_patch(frame: pl.DataFrame) -> str | None:
    """The mean change of every method with its interval."""
    rows = tail_patch_summary(frame).filter(pl.col("change").is_not_null())
    return _json(_bars(rows, "change", wording.CHANGE, ".3g")) if len(rows) else None
