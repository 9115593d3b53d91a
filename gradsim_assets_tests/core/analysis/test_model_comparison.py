"""The retrieval figures of several models in one table."""

import polars as pl

from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.plots import series
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.models.trajectories import Checkpoint
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import block_names, counterfactuals, products

NAMES = block_names(2)


def test_model_comparison():
    few = retrieval(PairProducts.from_frame(products(12, 3, NAMES)))
    many = retrieval(PairProducts.from_frame(products(12, 12, NAMES)))
    table = model_comparison({("a", "paraphrased"): few, ("b", "paraphrased"): many})
    assert table.select("model", "method").rows() == [(m, k) for m in "ab" for k in few["method"]]
    assert table.filter(model="a")["recall_at_10"].to_list() == [None] * 3
    assert model_comparison({}).is_empty()


def test_checkpoints_stand_with_their_steps_and_scores():
    table = retrieval(PairProducts.from_frame(products(12, 3, NAMES)))
    scores, _ = counterfactuals(12)
    found = {(model, "paraphrased"): table for model in ("r@step-2", "r@step-10", "other")}
    checkpoints = {f"r@step-{step}": Checkpoint("r", f"step-{step}", step) for step in (2, 10)}
    frame = model_comparison(found, None, {("r@step-10", "paraphrased"): scores}, checkpoints)
    steps = frame.group_by("model", maintain_order=True).agg(pl.col("run").first(), pl.col("step").first())
    assert steps.rows() == [("r@step-2", "r", 2), ("r@step-10", "r", 10), ("other", None, None)]
    assert frame.select("model", "method").rows() == [(m, k) for m, _ in found for k in table["method"]]
    whole = {row["method"]: row["lds"] for row in scores.rows(named=True) if row["component"] is None}
    last = frame.filter(model="r@step-10")
    assert last["lds"].to_list() == [whole.get(method) for method in last["method"]]
    assert whole["full_gradient"] in last["lds"].to_list()
    assert frame.filter(pl.col("model") != "r@step-10")["lds"].is_null().all()
    curves = series.trajectories(frame)
    assert {key: part["step"].unique().to_list() for key, part in curves.items()} == {("r", "paraphrased"): [2, 10]}
    assert series.without_earlier(frame)["model"].unique(maintain_order=True).to_list() == ["r@step-10", "other"]
    alone = model_comparison({("r@step-2", "paraphrased"): table}, checkpoints=checkpoints)
    assert series.trajectories(alone) == {}, "one checkpoint has no course"
