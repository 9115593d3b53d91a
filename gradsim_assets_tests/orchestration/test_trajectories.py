"""A run with checkpoints from the command to sums over them, and what a change of one costs: a real home, tiny models, real runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets_tests.support.changing_home import ChangingHome
from gradsim_assets_tests.support.tiny_models import save_tiny_model

STEPS, RATES = (2, 6), {1: 4e-5, 2: 2e-5, 4: 1e-5}


def save_checkpoint(run: Path, step: int, seed: int) -> None:
    """As transformers' Trainer leaves one that logs every other step."""
    folder = save_tiny_model(run / f"checkpoint-{step}", seed=seed, positions=256)
    history = [{"step": place, "learning_rate": rate} for place, rate in RATES.items() if place <= step]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed of both checkpoints of a run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = tmp_path_factory.mktemp("run")
        for step in STEPS:
            save_checkpoint(run, step, seed=step)
        home = ChangingHome(
            tmp_path_factory.mktemp("root"),
            run,
            monkeypatch,
            {"shards": 1, "candidates": 3},
            {"projections": []},
            {"checkpoints": "checkpoint-*"},
        )
        home.write_samples(4)
        home.run()
        yield home


def partition(home: ChangingHome, step: int, shard: str | None = None) -> Partition:
    return Partition(model_slug(f"{home.folder}@checkpoint-{step}"), shard)


def products(home: ChangingHome, step: int) -> pl.DataFrame:
    """Product and both lengths of the full gradients of every pair."""
    frame = Tables(str(home.home / "tables")).read(["dot_products", "paraphrased"], partition(home, step, "00"))
    return frame.group_by("variant_id", "original_id").agg(pl.col("dot_product", "variant_self", "original_self").sum())


def checked_sum(home: ChangingHome) -> None:
    """Holds the table of the last checkpoint to the formula."""
    tables = Tables(str(home.home / "tables"))
    found = tables.read(["tracin", "paraphrased"], partition(home, STEPS[-1]))
    first, last = (products(home, step) for step in STEPS)
    both = found.join(first, on=["variant_id", "original_id"]).join(last, on=["variant_id", "original_id"])
    assert len(found) == len(both) == len(first) > 0
    # Of the first two steps the mean of both rates, of the four behind them the one that was logged.
    assert both.filter(
        (pl.col("score") - 3e-5 * pl.col("dot_product") - 1e-5 * pl.col("dot_product_right")).abs()
        > 1e-9 * pl.col("score").abs()
    ).is_empty()
    told = tables.provenance(["tracin", "paraphrased"], partition(home, STEPS[-1]))["checkpoints"]
    assert [(one["step"], one["learning_rate"]) for one in told.values()] == [(2, pytest.approx(3e-5)), (6, 1e-5)]


def test_every_checkpoint_is_computed_in_order_summed_and_compared(home: ChangingHome) -> None:
    checked_sum(home)
    tables = Tables(str(home.home / "tables"))
    for step in STEPS:
        methods = tables.read(["retrieval", "paraphrased"], partition(home, step))["method"].to_list()
        assert {"tracin", "tracin_normalised"} < set(methods)
        answers = tables.read(["retrieval", "model_generated"], partition(home, step))["method"].to_list()
        assert "tracin" not in answers, "answers are another text at every checkpoint"
    compared = tables.read(["model_comparison"])
    assert compared.select("run", "step").unique(maintain_order=True).rows() == [(str(home.folder), s) for s in STEPS]
    assert home.out_of_date() == {} and home.planned() == set()
    listed = json.loads(home.command("models", "list", "--json").stdout)
    assert [(one["checkpoint_of"], one["step"]) for one in listed] == [(str(home.folder), step) for step in STEPS]
    assert "is a run with checkpoints, not one model" in home.command("plan", home.model_id).output


@pytest.mark.slow
def test_a_change_of_an_early_checkpoint_reaches_the_sums_of_later_ones_and_no_gradient_of_theirs(
    home: ChangingHome,
) -> None:
    save_checkpoint(home.folder, STEPS[0], seed=11)
    before = home.now()
    home.run()
    later = {table for table, where in home.computed_since(before) if where == f"@checkpoint-{STEPS[-1]}"}
    assert later == {"tracin_paraphrased", "retrieval_paraphrased", "report"}
    checked_sum(home)
    assert home.out_of_date() == {} and home.planned() == set()


@pytest.mark.slow
def test_without_learning_rates_there_is_no_sum_and_a_sentence_says_why(home: ChangingHome, tmp_path: Path) -> None:
    for step in STEPS:
        (home.folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    fresh = home.fresh(tmp_path / "fresh")
    fresh.run()
    tables = Tables(str(fresh.home / "tables"))
    assert tables.read(["tracin", "paraphrased"], partition(home, STEPS[-1])).is_empty()
    assert "tracin" not in tables.read(["retrieval", "paraphrased"], partition(home, STEPS[-1]))["method"].to_list()
    instance = fresh.launcher.instance
    told = [
        str(record.asset_materialization.metadata["left out"].value)  # type: ignore[union-attr]
        for record in instance.fetch_materializations(asset_key("tracin", "paraphrased"), 9).records
    ]
    assert len(told) == 2
    for one in told:
        assert "no learning rate of steps 1 to 2 stands beside" in one and one.endswith("of every step.")
