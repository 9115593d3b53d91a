"""Curves over steps: where their points lie, and how the page shows them."""

import re

import polars as pl
import pytest

from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.report.headline import BESIDE
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.models.trajectories import Checkpoint
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.web.over_steps import BOTTOM, LEFT, RIGHT, TOP, trajectories
from gradsim_assets.web.rendering import Pages
from gradsim_assets_tests.support.analysis_data import block_names, counterfactuals, realistic

STEPS = (0, 30, 120)
MODELS = [f"org/run@step-{step}" for step in STEPS]


@pytest.fixture(scope="module")
def comparison() -> pl.DataFrame:
    names = block_names(2)
    tables = [retrieval(PairProducts.from_frame(realistic(12, 4, names, seed))) for seed in range(len(STEPS))]
    checkpoints = {m: Checkpoint("org/run", f"step-{s}", s) for m, s in zip(MODELS, STEPS, strict=True)}
    found = {(model, "paraphrased"): table for model, table in zip(MODELS, tables, strict=True)}
    scores = {(MODELS[1], "paraphrased"): counterfactuals(12)[0]}
    return model_comparison({**found, ("org/other", "paraphrased"): tables[0]}, None, scores, checkpoints)


def test_points_lie_where_step_and_figure_say(comparison: pl.DataFrame) -> None:
    (one,) = trajectories(comparison, MODELS)
    assert (one.run, one.setting) == ("org/run", "paraphrased")
    accuracy, mrr, lds = one.panels
    assert [text for _, text in accuracy.steps] == [str(step) for step in STEPS] and [t for _, t in lds.steps] == ["30"]
    full = next(curve for curve in accuracy.curves if curve.is_main)
    points = [tuple(map(float, point.split(","))) for point in full.points.split()]
    rows = comparison.filter(pl.col("run").is_not_null(), method="full_gradient")
    for (x, y), row in zip(points, rows.rows(named=True), strict=True):
        assert x == pytest.approx(LEFT + (RIGHT - LEFT) * row["step"] / 120, abs=0.06)
        assert y == pytest.approx(BOTTOM - (BOTTOM - TOP) * row["accuracy"], abs=0.06)
        assert f"{row['accuracy']:.3f} at step {row['step']}" in full.told
    area = [tuple(map(float, point.split(","))) for point in full.area.split()]
    assert area[0][1] == pytest.approx(BOTTOM - (BOTTOM - TOP) * rows["accuracy_high"][0], abs=0.06)
    assert area[-1][1] == pytest.approx(BOTTOM - (BOTTOM - TOP) * rows["accuracy_low"][0], abs=0.06)
    assert {curve.name for curve in mrr.curves} == {"full gradient", "best component", "chance"}


def test_only_checkpoints_that_are_shown_count(comparison: pl.DataFrame) -> None:
    (two,) = trajectories(comparison, MODELS[1:])
    assert [text for _, text in two.panels[0].steps] == ["30", "120"]
    assert trajectories(comparison, [*MODELS[:1], "org/other"]) == [], "one checkpoint has no course"


def test_the_page_draws_every_curve_and_names_it(comparison: pl.DataFrame) -> None:
    found = trajectories(comparison, MODELS)
    answer = Pages("http://dagster").answer(
        "comparison.html.j2",
        models=[],
        trajectories=found,
        differences={setting: [] for setting in SETTINGS},
        settings=SETTINGS,
        beside=BESIDE,
        slug=model_slug,
        table="http://dagster/assets/model_comparison",
    )
    page = bytes(answer.body).decode()
    curves = [curve for panel in found[0].panels for curve in panel.curves]
    assert page.count("<polyline") == len(curves) and "When it was learned: org/run, paraphrased variants" in page
    for curve in curves:
        assert f'<polyline points="{curve.points}"/>' in page and f"<title>{curve.name}: {curve.told}</title>" in page
    assert len(re.findall(r'role="img" aria-label="[^"]+"', page)) == 3
