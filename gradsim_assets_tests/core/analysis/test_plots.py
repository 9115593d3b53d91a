"""Static plots: what they show, on a small and on a large model, with and without sizes."""

import base64
import itertools
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.control_comparison import control_comparison
from gradsim_assets.core.analysis.greedy_selection import greedy_selection
from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.plots import interactive, pair_matrix, palette, panels, series, static, wording
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.models.trajectories import Checkpoint
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import (
    block_names,
    bm25,
    counterfactuals,
    evaluation,
    projected,
    realistic,
)

FIRST_ORDER, TAIL_PATCH = evaluation(30)
LDS, REMOVAL = counterfactuals(36)
STEPS = (10, 200)


class Tables:
    """Every analysis of one generated setting."""

    def __init__(self, blocks: int, sizes: bool = True):
        names = [*block_names(blocks), "lm_head.weight"]
        table = realistic(30, 5, names)
        pairs = PairProducts.from_frame(table)
        numbers = {name: 8192 if "mlp" in name else 4096 for name in names} | {names[0]: 500_000}
        self.parameters = parameters_per_component(numbers if sizes else dict.fromkeys(names))
        self.accuracy = accuracy_per_component(pairs, self.parameters)
        self.agreement = agreement(pairs, self.parameters)
        self.greedy = greedy_selection(pairs, self.parameters, splits=2)
        self.self_similarity = self_similarity(pairs, self.parameters)
        self.retrieval = retrieval(pairs, projected(table), bm25(table), self.parameters)
        self.every_pair = gradient_similarity(PairProducts.from_frame(realistic(30, 30, names[:2])))
        similarity = gradient_similarity(pairs)
        self.controls = control_comparison(similarity, {"a/b+untrained": similarity, "a/c": similarity})

    def plots(self) -> dict[str, panels.Plot]:
        found = [
            *static.parameters(self.parameters),
            *static.accuracy(self.accuracy, self.retrieval, "paraphrased"),
            *static.agreement(self.agreement, "model_generated"),
            *static.greedy(self.greedy, self.retrieval, "paraphrased"),
            *static.single_samples(self.self_similarity, "paraphrased"),
            *static.retrieval(self.retrieval, "paraphrased"),
            *static.first_order(FIRST_ORDER, "paraphrased"),
            *static.tail_patch(TAIL_PATCH, "model_generated"),
            *static.controls(self.controls, "paraphrased"),
            *static.pair_matrix(self.every_pair, "paraphrased"),
            *static.linear_datamodeling_score(LDS, "paraphrased"),
            *static.removal(REMOVAL, "model_generated"),
            *static.comparison(
                model_comparison(
                    {(f"a/b@step-{step}", "paraphrased"): self.retrieval for step in STEPS},
                    scores={(f"a/b@step-{step}", "paraphrased"): LDS for step in STEPS},
                    checkpoints={f"a/b@step-{step}": Checkpoint("a/b", f"step-{step}", step) for step in STEPS},
                )
            ),
        ]
        return {plot.name: plot for plot in found}


@pytest.fixture(scope="module")
def large() -> dict[str, panels.Plot]:
    return Tables(36).plots()


@pytest.fixture(scope="module")
def small() -> Tables:
    return Tables(2)


def boxes(svg: str) -> list[tuple[str, float, float, float, float]]:
    """(text, left, right, top, bottom) of the horizontal texts, each a little smaller than it is drawn."""
    pattern = r'<text style="([^"]*)" x="([\d.-]+)" y="([\d.-]+)" transform="rotate\(-0[^>]*>([^<]+)</text>'
    found = []
    for style, x, y, text in re.findall(pattern, svg):
        said = dict(part.split(": ", 1) for part in style.split("; "))
        size = said["font-size"].removesuffix("px")
        width = 0.5 * float(size) * len(text)  # DejaVu Sans is 0.55 to 0.6 em wide on the average
        left = float(x) - {"middle": width / 2, "end": width}.get(said.get("text-anchor", ""), 0)
        found.append((text, left, left + width, float(y) - 0.7 * float(size), float(y)))
    return found


NAMES = {
    "controls",
    "pair_matrix",
    "first_order",
    "tail_patch",
    "linear_datamodeling_score",
    "lds_over_depth",
    "removal",
    "parameters",
    "greedy_selection",
    "single_samples",
    "retrieval",
    "model_comparison",
    "over_steps",
    *(f"{w}_{k}" for w in ("accuracy", "agreement") for k in ("over_depth", "bars", "attention_mlp", "by_parameters")),
}


def test_every_plot_is_there(large):
    assert set(large) == NAMES
    for plot in large.values():
        assert plot.png.startswith(b"\x89PNG")
        assert plot.title
        assert plot.help.endswith(".")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_axis_titles_have_units(large, name):
    shown = large[name].svg
    assert re.search(
        r"depth \(block number\)|\((share of variants|cosine|rank correlation|nats per token|%[^)]*)\)", shown
    )


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_label_overlaps_on_a_large_model(large, name):
    found = boxes(large[name].svg)
    assert len(found) > 5
    for (text, left, right, top, bottom), (other, *box) in itertools.combinations(found, 2):
        apart = right <= box[0] or box[1] <= left or bottom <= box[2] or box[3] <= top
        assert apart, f"{text!r} overlaps {other!r}"


def test_every_type_is_named(large):
    for name in ("accuracy_over_depth", "accuracy_bars"):
        for kind in ("self_attn.q_proj", "mlp.down_proj"):
            assert kind in large[name].svg
    assert "embed_tokens" in large["accuracy_over_depth"].svg
    assert "full gradient" in large["accuracy_over_depth"].svg


def test_same_table_same_file(small):
    first, second = (static.retrieval(small.retrieval, "paraphrased")[0] for _ in range(2))
    assert (first.png, first.svg) == (second.png, second.svg)


def test_without_sizes_what_needs_them_is_left_out():
    plots = Tables(2, sizes=False).plots()
    assert set(plots) == NAMES - {"parameters", "accuracy_by_parameters", "agreement_by_parameters"}
    assert "number of components (parameter counts are unknown)" in plots["greedy_selection"].svg


def test_without_rows_no_plots(small):
    nothing = small.accuracy.clear()
    assert static.accuracy(nothing, small.retrieval.clear(), "paraphrased") == []
    assert static.greedy(small.greedy.clear(), None, "paraphrased") == []
    assert static.single_samples(small.self_similarity.clear(), "paraphrased") == []
    assert static.retrieval(small.retrieval.clear(), "paraphrased") == []
    assert interactive.over_depth(nothing, "accuracy", {}) is None
    assert interactive.greedy(small.greedy.clear(), None, "accuracy") is None


def test_undefined_values_leave_a_gap(small):
    holes = small.agreement.with_columns(agreement=pl.when(pl.col("depth") == 1).then(None).otherwise("agreement"))
    assert len(static.agreement(holes, "paraphrased")) == 4


def test_greedy_curves_carry_what_they_are_compared_with(small):
    curve = series.greedy_curves(small.greedy, small.retrieval, "accuracy")
    assert [(name, x) for name, x, _ in curve.points] == [("projection, 1 %", 1.0), ("projection, 5 %", 5.0)]
    assert curve.level == small.retrieval["accuracy"][0]
    assert curve.same["x"][-1] == pytest.approx(100)
    assert (curve.held_out["low"] <= curve.held_out["value"]).all()
    assert (curve.held_out["high"] >= curve.held_out["value"]).all()


def test_model_without_blocks():
    table = parameters_per_component({"score.weight": 10}).with_columns(accuracy=pl.lit(0.5))
    assert [plot.name for plot in static.accuracy(table, None, "paraphrased")] == ["accuracy_by_parameters"]


@pytest.mark.parametrize(("count", "said"), [(512, "512"), (4200, "4.2 k"), (103_809_024, "104 M"), (1.18e9, "1.18 B")])
def test_number(count, said):
    assert wording.number(count) == said


# ---- the page and the files ------------------------------------------------------------------------------------------


def traces(figure: str | None, **wanted: str) -> list[dict]:
    assert figure is not None
    return [trace for trace in json.loads(figure)["data"] if wanted.items() <= trace.items()]


def numbers(packed) -> list[float]:
    """Plotly writes long arrays as base64."""
    if isinstance(packed, list):
        return packed
    return np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).astype(float).tolist()


def test_colours_are_named_in_one_place():
    plots = Path(palette.__file__).parent
    sources = [*plots.glob("*.py"), *(plots.parent / "report").glob("*.js")]
    assert len(sources) >= 7
    coloured = {file.name for file in sources if re.search(r"#[0-9a-fA-F]{3,8}\b[\"']", file.read_text())}
    assert coloured == {"palette.py"}


def test_component_types_look_the_same_on_the_page_and_in_files(small, large):
    lines = [line for lines in series.lines(small.accuracy, "accuracy").values() for line in lines]
    drawn = {trace["name"]: trace for trace in traces(interactive.over_depth(small.accuracy, "accuracy", {}))}
    svg = static.accuracy(small.accuracy, None, "paraphrased")[0].svg
    styles = [palette.style(line.place, line.family) for line in lines]
    for line, style in zip(lines, styles, strict=True):
        trace = drawn[line.name]
        assert (trace["line"]["color"], trace["line"]["dash"]) == (style.colour, style.line)
        assert trace["marker"]["symbol"] == style.symbol
        assert style.colour.lower() in svg
    assert len({(style.colour, style.symbol, style.line) for style in styles}) == len(lines)


def test_many_types_are_told_apart():
    looks = {(s.colour, s.symbol, s.marker) for s in (palette.style(place) for place in range(64))}
    assert len(looks) == 64


@pytest.mark.parametrize("column", ["accuracy", "agreement"])
def test_components_have_their_intervals_on_the_page_and_in_files(small, column):
    frame = getattr(small, column)
    expected = {row["component"]: row for row in frame.rows(named=True)}
    shown = {}
    for trace in traces(interactive.over_depth(frame, column, {}), type="scatter"):
        ends = (numbers(trace["error_y"]["arrayminus"]), numbers(trace["error_y"]["array"]))
        for name, value, below, above in zip(trace["customdata"], numbers(trace["y"]), *ends, strict=True):
            shown[name] = (value - below, value, value + above)
    assert set(shown) == set(expected)
    for name, ends in shown.items():
        row = expected[name]
        assert ends == pytest.approx([row[f"{column}_low"], row[column], row[f"{column}_high"]], abs=1e-12)
    hover = next(text for text in traces(interactive.heatmap(frame, column))[0]["text"][0] if text)
    assert "95\u00a0% interval 0." in hover
    # Whiskers are collections of lines of their own, one for every series.
    over_depth = next(plot for plot in getattr(static, column)(*_arguments(small, column)) if "depth" in plot.name)
    assert over_depth.svg.count('<g id="LineCollection_') == 7 + 1


def _arguments(tables, column):
    frame = getattr(tables, column)
    return (frame, None, "paraphrased") if column == "accuracy" else (frame, "paraphrased")


def test_the_mean_of_experts_has_no_interval():
    names = [f"model.layers.{b}.mlp.experts.{e}.up_proj.weight" for b in range(2) for e in range(b + 1)]
    frame = parameters_per_component(dict.fromkeys(names, 8)).with_columns(
        accuracy=pl.Series([0.5, 0.25, 0.75]), accuracy_low=pl.lit(0.1), accuracy_high=pl.lit(0.9)
    )
    (line,) = series.lines(frame, "accuracy")["mlp"]
    assert line.value.tolist() == [0.5, 0.5]
    assert line.low.tolist() == pytest.approx([0.1, np.nan], nan_ok=True)
    below, above = series.whiskers(line.value, line.low, line.high)
    assert [below.tolist(), above.tolist()] == [[0.4, 0.0], [0.4, 0.0]]


def test_boxes_are_the_same_on_the_page_and_in_files_and_none_is_drawn_of_a_few():
    few, many = wording.LEAST_IN_BOX - 1, 9
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(few)]
    names += [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(many)]
    values = np.array([0.3, 0.2, 0.1, 0.4, *(0.52, 0.5, 0.56, 0.54, 0.58, 0.6, 0.64, 0.62, 2.0)])
    frame = parameters_per_component({n: 8 if "mlp" in n else 64 for n in names}).with_columns(accuracy=values)
    first, second = series.boxes(frame, "accuracy")
    assert first.quartiles is None and len(first.values) == few
    # Quartiles of nine values are the third, fifth and seventh; whiskers end at values, here short of the outlier.
    assert second.quartiles == pytest.approx([0.5, 0.54, 0.58, 0.62, 0.64])
    page = interactive.box_by_size(frame, "accuracy")
    (box,) = traces(page, type="box")
    assert [box[name][0] for name in ("lowerfence", "q1", "median", "q3", "upperfence")] == list(second.quartiles)
    points = [numbers(trace["x"]) for trace in traces(page, type="scatter")]
    assert points == [values[:few].tolist(), values[few:].tolist()]

    def lines(part: pl.DataFrame) -> int:
        return static.accuracy(part, None, "")[-1].svg.count(f"stroke: {palette.GREY}")

    assert lines(frame) == lines(frame.filter(parameters=64)) > 0 == lines(frame.filter(parameters=8))


def test_every_plot_is_worded_once(large):
    assert set(wording.PLOTS) == set(large) == NAMES
    for name, plot in large.items():
        assert plot.title.startswith(wording.PLOTS[name].title)
        assert plot.help == wording.PLOTS[name].help


def test_many_blocks_are_small_multiples_on_one_scale():
    tables = Tables(24)
    figure = json.loads(interactive.over_depth(tables.accuracy, "accuracy", {"full gradient": 0.97, "chance": 0.2}))
    named = [trace for trace in figure["data"] if "customdata" in trace]
    drawn = [name for trace in named for name in trace["customdata"]]
    assert sorted(drawn) == sorted(tables.accuracy["component"]), "every component once"
    assert len({trace["xaxis"] for trace in named}) == len(named) == 7 + 2, "a panel for each type"
    titles = {annotation["text"] for annotation in figure["layout"]["annotations"]}
    assert {"self_attn.q_proj", "mlp.down_proj", "embed_tokens", "lm_head"} <= titles
    spans = {tuple(axis["range"]) for name, axis in figure["layout"].items() if name.startswith("yaxis")}
    assert len(spans) == 1
    low, high = spans.pop()
    parts = series.with_interval(tables.accuracy, "accuracy")
    assert low < parts["low"].min() and parts["high"].max() < high, "intervals are in sight"
    areas = [trace for trace in figure["data"] if trace.get("fill")]
    assert len(areas) == 7 and all(len(numbers(area["x"])) == 48 for area in areas)
    assert [trace["name"] for trace in figure["data"] if trace.get("showlegend") is True] == ["full gradient", "chance"]
    few = json.loads(interactive.over_depth(Tables(8).accuracy, "accuracy", {}))
    assert "xaxis2" not in few["layout"], "lines of few blocks are told apart in one picture"


def test_heat_maps_have_every_component_and_one_scale(small):
    ends = series.common_scale(
        [small.accuracy, small.accuracy.with_columns(accuracy=pl.col("accuracy") / 2)], "accuracy"
    )
    assert ends == (small.accuracy["accuracy"].min() / 2, small.accuracy["accuracy"].max())
    (drawn,) = traces(interactive.heatmap(small.accuracy, "accuracy", ends))
    assert (drawn["zmin"], drawn["zmax"]) == ends
    names = [name for row in drawn["customdata"] for name in row if name]
    assert sorted(names) == sorted(small.accuracy["component"])
    grid = np.array(numbers(drawn["z"])).reshape(len(drawn["y"]), -1)
    shown = {name: grid[i, j] for i, row in enumerate(drawn["customdata"]) for j, name in enumerate(row) if name}
    assert shown == pytest.approx(dict(small.accuracy.select("component", "accuracy").iter_rows()))
    assert drawn["y"][-2:] == ["embed_tokens", "lm_head"] and np.isfinite(grid[-2, 0]) and np.isfinite(grid[-1, -1])
    assert series.common_scale([small.accuracy.head(1)], "accuracy") is None


# ---- every variant with every original -------------------------------------------------------------------------------


def every_pair(variants: int, originals: int) -> pl.DataFrame:
    """A table `gradient_similarity` of all pairs in an order of its own; variants are of the last originals."""
    rng = np.random.default_rng(variants)
    rows = [
        (f"s_{v}", f"s_{o}", component, float(rng.uniform(0.6, 1) if v == o else rng.uniform(-0.1, 0.5)))
        for v in range(originals - variants, originals)
        for o in rng.permutation(originals).tolist()
        for component in ("model.layers.0.mlp.up_proj.weight", "full_gradient")
    ]
    return pl.DataFrame(rows, schema=["variant_id", "original_id", "component", "similarity"], orient="row")


def cells_of(figure: str) -> dict:
    (drawn,) = traces(figure, type="heatmap")
    return drawn


def matrix_of(frame: pl.DataFrame) -> pair_matrix.PairMatrix:
    matrix = pair_matrix.pair_matrix(frame)
    assert matrix is not None
    return matrix


@pytest.mark.parametrize("size", [12, 30, 128])
def test_every_pair_has_a_cell_that_names_it_and_own_pairs_are_the_diagonal(size):
    frame = every_pair(size, size)
    matrix = matrix_of(frame.lazy())
    drawn = cells_of(interactive.pair_matrix(matrix, matrix.scale))
    named = {tuple(pair): value for line, values in zip(drawn["customdata"], drawn["z"], strict=True)
             for pair, value in zip(line, values, strict=True)}  # fmt: skip
    full = frame.filter(component="full_gradient")
    expected = {(v, o): value for v, o, value in full.select("variant_id", "original_id", "similarity").iter_rows()}
    assert named == pytest.approx(expected, abs=1e-4) and len(named) == size**2
    assert [line[place][0] for place, line in enumerate(drawn["customdata"])] == [f"s_{n}" for n in range(size)]
    assert all(variant == original for variant, original in (line[n] for n, line in enumerate(drawn["customdata"])))
    assert (drawn["x"], drawn["y"]) == ([f"s_{n}" for n in range(size)],) * 2
    assert drawn["colorbar"]["title"]["text"] == wording.SIMILARITY
    svg = static.pair_matrix(frame, "paraphrased")[0].svg
    assert f"{size} originals" in svg and f"{size} variants" in svg


def test_of_many_samples_a_cell_is_the_highest_of_its_pairs_and_names_it():
    frame = every_pair(300, 300)
    matrix = matrix_of(frame)
    figure = interactive.pair_matrix(matrix, matrix.scale)
    drawn = cells_of(figure)
    known = {(v, o): value for v, o, value in frame.filter(component="full_gradient").drop("component").iter_rows()}
    for row in range(100):
        for column in (0, row, 99):
            inside = {
                (f"s_{v}", f"s_{o}"): known[f"s_{v}", f"s_{o}"]
                for v in range(3 * row, 3 * row + 3)
                for o in range(3 * column, 3 * column + 3)
            }
            best = max(inside, key=inside.__getitem__)
            assert drawn["z"][row][column] == pytest.approx(inside[best], abs=1e-4)
            assert tuple(drawn["customdata"][row][column]) == best
    assert drawn["x"][0] == "s_0 to s_2" and len(drawn["x"]) == len(drawn["y"]) == 100
    # Whoever looks is told what a cell is.
    layout = json.loads(figure)["layout"]
    assert layout["xaxis"]["title"]["text"] == "300 originals, 3 a column"
    assert layout["yaxis"]["title"]["text"] == "300 variants, 3 a row"
    assert drawn["colorbar"]["title"]["text"] == wording.HIGHEST
    assert "300 originals, 3 a column" in static.pair_matrix(frame, "paraphrased")[0].svg


def test_originals_without_a_variant_stand_behind_the_diagonal():
    matrix = matrix_of(every_pair(3, 6))
    assert matrix.rows.labels == ("s_3", "s_4", "s_5")
    assert matrix.columns.labels == ("s_3", "s_4", "s_5", "s_0", "s_1", "s_2")
    assert (len(matrix.own), len(matrix.others)) == (3, 15)
    # The last cell of a side may hold fewer.
    odd = matrix_of(every_pair(129, 131))
    assert (odd.rows.share, odd.columns.share) == (2, 2)
    assert (odd.rows.labels[-1], odd.columns.labels[-1]) == ("s_130", "s_1")


def test_a_similarity_that_is_undefined_leaves_a_gap():
    frame = every_pair(3, 3)
    gone = (pl.col("variant_id") == "s_1") & (pl.col("original_id") == "s_1")
    matrix = matrix_of(frame.with_columns(similarity=pl.when(gone).then(None).otherwise("similarity")))
    drawn = cells_of(interactive.pair_matrix(matrix, matrix.scale))
    assert drawn["z"][1][1] is None and drawn["customdata"][1][1] == ["", ""]
    assert (len(matrix.own), len(matrix.others)) == (2, 6)


def test_there_is_a_matrix_of_exhaustive_comparisons_alone(small):
    assert pair_matrix.pair_matrix(every_pair(4, 4).slice(2)) is None
    assert pair_matrix.pair_matrix(every_pair(4, 4).filter(component="model.layers.0.mlp.up_proj.weight")) is None
    assert pair_matrix.pair_matrix(every_pair(1, 4)) is None
    assert pair_matrix.pair_matrix(every_pair(4, 4).with_columns(similarity=pl.lit(None, pl.Float64))) is None
    pairs = PairProducts.from_frame(realistic(30, 5, block_names(1)))
    assert static.pair_matrix(gradient_similarity(pairs), "paraphrased") == []
    assert pair_matrix.common_scale([None]) is None
    first, second = matrix_of(small.every_pair), matrix_of(every_pair(4, 4))
    both = pair_matrix.common_scale([first, None, second])
    for of in ("pairs", "cells"):
        ends = [getattr(one.scale, of) for one in (first, second)]
        assert getattr(both, of) == (min(ends)[0], max(high for _, high in ends))


def test_a_few_copies_do_not_darken_the_rest():
    frame = every_pair(60, 60)
    copied = (pl.col("variant_id") == "s_7") & (pl.col("original_id").is_in(["s_8", "s_9"]))
    matrix = matrix_of(frame.with_columns(similarity=pl.when(copied).then(5.0).otherwise("similarity")))
    low, high = matrix.scale.cells
    assert low == matrix.cells.min() and high < 1 and matrix.scale.pairs[1] == 5.0
    assert 0 < (matrix.cells > high).sum() <= matrix.cells.size / 200
    assert cells_of(interactive.pair_matrix(matrix, matrix.scale))["zmax"] == high


def test_histograms_have_the_own_pairs_and_all_others_as_shares_of_their_number():
    frame = every_pair(40, 40)
    matrix = matrix_of(frame)
    own = (pl.col("variant_id") == pl.col("original_id")).alias("own")
    full = frame.filter(component="full_gradient").with_columns(own)
    edges, *shares = pair_matrix.bars(matrix, matrix.scale)
    for share, is_own in zip(shares, (True, False), strict=True):
        found = full.filter(own=is_own)["similarity"].to_numpy()
        assert share.sum() == pytest.approx(100)
        assert share.tolist() == pytest.approx((100 * np.histogram(found, edges)[0] / len(found)).tolist())
    drawn = {bar["name"]: bar for bar in traces(interactive.pair_matrix(matrix, matrix.scale), type="bar")}
    assert numbers(drawn[wording.OWN]["y"]) == pytest.approx(shares[0].tolist())
    assert numbers(drawn[wording.OTHER]["y"]) == pytest.approx(shares[1].tolist())
    svg = static.pair_matrix(frame, "paraphrased")[0].svg
    for name, style in ((wording.OWN, palette.OWN_STYLE), (wording.OTHER, palette.OTHER_STYLE)):
        assert drawn[name]["marker"]["color"] == style.colour and style.colour.lower() in svg and name in svg
