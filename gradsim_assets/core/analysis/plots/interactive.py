"""Interactive plots (plotly) for the report: each function returns a figure as JSON that plotly.js draws, or None."""

from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import palette, series, wording

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
_DASHES = ("solid", "dash", "dashdot", "dot", "longdash")
_REFERENCE_DASHES = ("dash", "dot", "dashdot")


def _figure(height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    axis = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#444", "ticks": "outside", "automargin": True}
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 15, "t": 15, "b": 50},
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
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


def _levels(figure: Any, levels: dict[str, float], x: tuple[float, float]) -> None:
    for (name, level), dash in zip(levels.items(), _REFERENCE_DASHES, strict=False):
        figure.add_scatter(
            x=list(x),
            y=[level, level],
            mode="lines",
            line={"color": palette.GREY, "dash": dash, "width": 1.5},
            name=name,
            hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>",
        )


def over_depth(frame: pl.DataFrame, column: str, label: str, levels: dict[str, float]) -> str | None:
    """One line per component type over depth: types apart by colour and symbol, families by dash."""
    panels = series.lines(frame, column)
    if not panels:
        return None
    figure = _figure(520, xaxis_title=wording.DEPTH, yaxis_title=label)
    hover = {"hovertemplate": "%{customdata}<br>%{y:.4f}<extra></extra>"}
    types = [(dash, line) for dash, lines in zip(_DASHES, panels.values(), strict=False) for line in lines]
    for i, (dash, line) in enumerate(types):
        figure.add_scatter(
            x=line.depth,
            y=line.value,
            mode="lines+markers",
            name=line.name,
            line={"color": palette.CYCLE[i % len(palette.CYCLE)], "dash": dash, "width": 1.5},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 7},
            customdata=line.components,
            visible=True if line.family in ("attention", "mlp") else "legendonly",
            **hover,
        )
    last = max(int(line.depth.max(initial=0)) for _, line in types)
    rest = series.outside(frame)
    if len(rest):
        places = series.outside_places(frame)
        figure.add_scatter(
            x=places,
            y=series.values(rest[column]),
            mode="markers",
            name=wording.OUTSIDE,
            marker={"symbol": "circle-open", "size": 9, "color": palette.BLACK, "line": {"width": 2}},
            customdata=rest["component"].to_list(),
            **hover,
        )
        figure.update_xaxes(**_ticks(last, places))
    _levels(figure, levels, (0, last))
    return _json(figure)


def _ticks(last: int, places: list[int]) -> dict[str, Any]:
    # Block numbers, and the names of the places before the first block and after the last.
    depths = list(range(0, last + 1, max(1, -(-last // 12))))
    before, after = ([-1] if -1 in places else []), ([last + 1] if last + 1 in places else [])
    texts = ["in"] * len(before) + [str(depth) for depth in depths] + ["out"] * len(after)
    return {"tickvals": before + depths + after, "ticktext": texts}


def heatmap(frame: pl.DataFrame, column: str, label: str) -> str | None:
    """Component types against depth; the colour scale (cividis) reads the same with and without colour vision."""
    rows = [line for lines in series.lines(frame, column).values() for line in lines]
    if not rows:
        return None
    depths = sorted({int(depth) for line in rows for depth in line.depth})
    index = {depth: place for place, depth in enumerate(depths)}
    grid = np.full((len(rows), len(depths)), np.nan)
    names = np.full(grid.shape, "", dtype=object)
    for row, line in enumerate(rows):
        places = [index[int(depth)] for depth in line.depth]
        grid[row, places], names[row, places] = line.value, line.components
    figure = _figure(110 + 24 * len(rows), xaxis_title=wording.DEPTH)
    figure.add_heatmap(
        x=depths,
        y=[line.name for line in rows],
        z=grid,
        customdata=names.tolist(),
        colorscale="Cividis",
        colorbar={"title": {"text": label, "side": "right"}, "thickness": 14},
        hovertemplate="%{customdata}<br>%{z:.4f}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    figure.update_xaxes(showgrid=False, **_ticks(depths[-1], []))
    return _json(figure)


def attention_against_mlp(frame: pl.DataFrame, column: str, label: str, levels: dict[str, float]) -> str | None:
    """Means of attention's and the MLP's components over depth with the range between their extremes."""
    bands = series.family_bands(frame, column)
    if not bands:
        return None
    figure = _figure(420, xaxis_title=wording.DEPTH, yaxis_title=label)
    last = 0.0
    for (family, band), symbol in zip(bands.items(), _SYMBOLS, strict=False):
        colour, name = palette.FAMILY_COLOURS[family], wording.FAMILY_NAMES[family]
        depth = band["depth"].to_list()
        last = max(last, *depth)
        figure.add_scatter(
            x=depth + depth[::-1],
            y=band["high"].to_list() + band["low"].to_list()[::-1],
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line={"width": 0},
            name=f"{name}, range",
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=depth,
            y=band["mean"].to_list(),
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol, "size": 7},
            name=f"{name}, mean",
            hovertemplate=f"{name}, block %{{x}}<br>mean %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(**_ticks(int(last), []))
    _levels(figure, levels, (0, last))
    return _json(figure)


def box_by_size(frame: pl.DataFrame, column: str, label: str) -> str | None:
    """Box of each number of parameters with its components as points."""
    groups = series.by_size(frame, column)
    if not groups:
        return None
    figure = _figure(
        max(280, 120 + 46 * len(groups)), xaxis_title=label, yaxis_title="parameters of a component", showlegend=False
    )
    for size, _, values, components in groups:
        figure.add_box(
            x=values,
            y=[wording.number(size)] * len(values),
            orientation="h",
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            marker={"color": palette.BLUE, "size": 5, "opacity": 0.55},
            line={"color": palette.GREY, "width": 1.2},
            fillcolor="rgba(0,0,0,0)",
            text=components,
            hovertemplate="%{text}<br>%{x:.4f}<extra></extra>",
            hoveron="points",
        )
    figure.update_yaxes(type="category", autorange="reversed")
    return _json(figure)


def greedy(greedy: pl.DataFrame, retrieval: pl.DataFrame | None, criterion: str) -> str | None:
    """Greedy curves of one criterion."""
    curve = series.greedy_curves(greedy, retrieval, criterion)
    if not len(curve.same):
        return None
    label = wording.AGREEMENT if criterion == "agreement" else wording.ACCURACY
    x_title = "share of the parameters (%, log scale)" if curve.by_share else "number of components"
    figure = _figure(440, xaxis_title=x_title, yaxis_title=label)
    if curve.by_share:
        figure.update_xaxes(type="log")
    if len(curve.held_out):
        _held_out(figure, curve.held_out)
    figure.add_scatter(
        x=curve.same["x"].to_list(),
        y=curve.same["value"].to_list(),
        mode="lines+markers",
        name="same ids",
        line={"color": palette.BLUE},
        marker={"size": 5},
        customdata=curve.same["component"].to_list(),
        hovertemplate="+ %{customdata}<br>%{x:.3g}: %{y:.4f}<extra></extra>",
    )
    for (name, x, value), symbol in zip(curve.points, ("diamond", "triangle-up", "square", "star"), strict=False):
        figure.add_scatter(
            x=[x],
            y=[value],
            mode="markers",
            marker={"symbol": symbol, "size": 12, "color": palette.BLACK},
            name=name,
            hovertemplate=f"{name}: %{{y:.4f}}<extra></extra>",
        )
    if curve.level is not None:
        ends = curve.same["x"]
        _levels(figure, {"full gradient": curve.level}, (float(ends[0]), float(ends[-1])))
    return _json(figure)


def _held_out(figure: Any, held: pl.DataFrame) -> None:
    x = held["x"].to_list()
    figure.add_scatter(
        x=x + x[::-1],
        y=held["high"].to_list() + held["low"].to_list()[::-1],
        fill="toself",
        fillcolor=palette.VERMILION,
        opacity=0.18,
        line={"width": 0},
        name="held out, range",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=held["value"].to_list(),
        mode="lines",
        line={"color": palette.VERMILION, "dash": "dash"},
        name="held out, mean",
        hovertemplate="%{x:.3g}: %{y:.4f}<extra></extra>",
    )


def retrieval(frame: pl.DataFrame) -> str | None:
    """Accuracy of every method with its interval."""
    rows = frame.filter(pl.col("accuracy").is_not_null())
    if not len(rows):
        return None
    accuracy, low, high = (series.values(rows[name]) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    figure = _figure(90 + 38 * len(rows), xaxis_title=wording.ACCURACY, showlegend=False)
    figure.add_bar(
        x=accuracy,
        y=[f"{wording.method_name(m)}  <b>{a:.3f}</b>" for m, a in rows.select("method", "accuracy").iter_rows()],
        orientation="h",
        marker={"color": [palette.GREY if name in ("bm25", "chance") else palette.BLUE for name in rows["method"]]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - accuracy).clip(0),
            "arrayminus": np.nan_to_num(accuracy - low).clip(0),
            "thickness": 1.2,
        },
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    figure.update_xaxes(range=[0, 1.02])
    return _json(figure)
