"""Static plots: what they show, on a small and on a large model, with and without sizes."""

import itertools
import re

import polars as pl
import pytest

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.greedy_selection import greedy_selection
from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.plots import interactive, panels, series, static, wording
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import block_names, bm25, projected, realistic


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

    def plots(self) -> dict[str, panels.Plot]:
        found = [
            *static.parameters(self.parameters),
            *static.accuracy(self.accuracy, self.retrieval, "paraphrased"),
            *static.agreement(self.agreement, "model_generated"),
            *static.greedy(self.greedy, self.retrieval, "paraphrased"),
            *static.single_samples(self.self_similarity, "paraphrased"),
            *static.retrieval(self.retrieval, "paraphrased"),
            *static.comparison(model_comparison({("a/b", "paraphrased"): self.retrieval})),
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
    pattern = (
        r'<text style="font-size: ([\d.]+)px[^"]*?(?:text-anchor: (\w+))?" '
        r'x="([\d.-]+)" y="([\d.-]+)" transform="rotate\(-0[^>]*>([^<]+)</text>'
    )
    found = []
    for size, anchor, x, y, text in re.findall(pattern, svg):
        width = 0.5 * float(size) * len(text)  # DejaVu Sans is 0.55 to 0.6 em wide on the average
        left = float(x) - {"middle": width / 2, "end": width}.get(anchor, 0)
        found.append((text, left, left + width, float(y) - 0.7 * float(size), float(y)))
    return found


NAMES = {
    "parameters",
    "greedy_selection",
    "single_samples",
    "retrieval",
    "model_comparison",
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
    assert re.search(r"depth \(block number\)|\((share of variants|cosine|%[^)]*)\)", shown)


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
    assert interactive.over_depth(nothing, "accuracy", "", {}) is None
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
