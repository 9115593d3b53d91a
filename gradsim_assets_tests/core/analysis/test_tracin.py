"""Sums over checkpoints against the formula, pair by pair; and the learning rates that they are weighted with."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import get_constant_schedule, get_linear_schedule_with_warmup

from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.analysis.tracin import tracin
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.learning_rates import learning_rates, mean_rate
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support.analysis_data import block_names, realistic

NAMES, RATES = block_names(2), (3e-5, 2e-5, 1e-6)


@pytest.fixture(scope="module")
def checkpoints() -> list[pl.DataFrame]:
    return [realistic(9, 4, NAMES, seed) for seed in range(3)]


def by_pair(frame: pl.DataFrame) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Sums of the three terms over components."""
    terms = pl.col("dot_product", "variant_self", "original_self")
    rows = frame.group_by("variant_id", "original_id").agg(terms.sum()).rows()
    return {(variant, original): (dot, v, o) for variant, original, dot, v, o in rows}


def test_a_score_is_the_sum_over_checkpoints_of_learning_rate_times_product(checkpoints: list[pl.DataFrame]) -> None:
    found = tracin([PairProducts.from_frame(frame) for frame in checkpoints], RATES)
    terms = [by_pair(frame) for frame in checkpoints]
    for variant, original, score, normalised in found.rows():
        expected = sum(rate * one[variant, original][0] for rate, one in zip(RATES, terms, strict=True))
        cosines = [
            one[variant, original][0] / (one[variant, original][1] * one[variant, original][2]) ** 0.5 for one in terms
        ]
        assert score == pytest.approx(expected, rel=1e-12)
        assert normalised == pytest.approx(np.average(cosines, weights=RATES), rel=1e-12)
    assert {(row[0], row[1]) for row in found.rows()} == set(terms[0])


def test_the_order_of_rows_changes_nothing_and_other_pairs_are_refused(checkpoints: list[pl.DataFrame]) -> None:
    one = checkpoints[0]
    pairs, mixed = PairProducts.from_frame(one), PairProducts.from_frame(one.sample(fraction=1, shuffle=True, seed=1))
    assert tracin([pairs, mixed], (1.0, 1.0)).equals(tracin([pairs, pairs], (1.0, 1.0)))
    fewer = PairProducts.from_frame(one.filter(pl.col("variant_id") != one["variant_id"][0]))
    for products in ([pairs, fewer], [fewer, pairs]):
        with pytest.raises(InputError, match="computed on other pairs"):
            tracin(products, (1.0, 1.0))


def test_it_is_a_method_of_retrieval(checkpoints: list[pl.DataFrame]) -> None:
    pairs = PairProducts.from_frame(checkpoints[0])
    table = retrieval(pairs, tracin=tracin([pairs], [0.5]))
    assert table["method"].to_list() == ["full_gradient", "tracin", "tracin_normalised", "best_component", "chance"]
    figures = {row["method"]: row for row in table.rows(named=True)}
    alone = ("accuracy", "mrr", "mean_best_similarity")
    for name in alone:  # of one checkpoint the normalised sum is its cosine
        assert figures["tracin_normalised"][name] == pytest.approx(figures["full_gradient"][name], rel=1e-12)
    assert figures["tracin"]["mean_best_similarity"] is None
    assert "tracin" not in retrieval(pairs, tracin=tracin([pairs], [0.5]).clear())["method"].to_list()


def test_rates_come_from_the_trainers_state_or_from_our_record_which_has_every_step(tmp_path: Path) -> None:
    revision = Revision("abc", str(tmp_path))
    assert learning_rates(revision) == {}
    history = [
        {"step": 2, "learning_rate": 2e-5, "loss": 1.0},
        {"step": 2, "eval_loss": 3.0},
        {"step": 4, "learning_rate": 1e-5},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    rates = learning_rates(revision)
    assert rates == {2: 2e-5, 4: 1e-5}
    assert mean_rate(rates, 0, 4) == pytest.approx(1.5e-5) and mean_rate(rates, 2, 4) == 1e-5
    assert mean_rate(rates, 2, 3) is None and mean_rate(rates, 4, 9) is None
    (tmp_path / "training_record.json").write_text(json.dumps({"learning_rates": {"1": 4e-5, "2": 3e-5}}))
    assert learning_rates(revision) == {1: 4e-5, 2: 3e-5}
    (tmp_path / "training_record.json").write_text("{")
    with pytest.raises(InputError, match=r"training_record\.json of .* is no JSON object"):
        learning_rates(revision)


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("training_record.json", {"learning_rates": {"1": 1e-4, "2": None}}, "different learning rates"),
        ("training_record.json", {"learning_rates": {"1": "fast"}}, "holds a learning rate that is no number"),
        ("trainer_state.json", {"log_history": [{"step": 1, "learning_rate": [1]}]}, "that is no number"),
        ("trainer_state.json", ["step"], "is no JSON object"),
    ],
)
def test_rates_that_are_not_one_number_of_a_step_are_refused(
    name: str, document: object, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(document))
    with pytest.raises(InputError, match=said):
        learning_rates(Revision("abc", str(tmp_path)))


@pytest.mark.parametrize("kind", ["constant", "linear", "plateau"])
@pytest.mark.parametrize("rates", [(1e-2, 1e-4), (1e-3, 1e-3)])
def test_groups_of_different_rates_are_known_by_the_trainers_scheduler(
    kind: str, rates: tuple[float, float], tmp_path: Path
) -> None:
    """The Trainer logs the rate of the first group alone, which would weigh gradients of all others as well."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups)
    scheduler = {
        "constant": lambda: get_constant_schedule(optimizer),
        "linear": lambda: get_linear_schedule_with_warmup(optimizer, 1, 9),
        "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
    }[kind]()
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "learning_rate": rates[0]}]}))
    revision = Revision("abc", str(tmp_path))
    if len(set(rates)) == 1:
        assert learning_rates(revision) == {1: rates[0]}
    else:
        with pytest.raises(InputError, match="groups of parameters had different learning rates in the training of"):
            learning_rates(revision)


def test_a_rate_of_zero_is_known(checkpoints: list[pl.DataFrame]) -> None:
    """A warm-up begins with it."""
    assert mean_rate({1: 0.0, 2: 1e-4}, 0, 1) == 0.0
    pairs = [PairProducts.from_frame(frame) for frame in checkpoints]
    assert tracin(pairs, (0.0, 0.0, 1.0)).equals(tracin(pairs[2:], (1.0,)))
