"""Products as predictions: right for real models, wrong for wrong products; which pairs and what step are taken."""

import random

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.first_order import choose_pairs, choose_step, first_order, fit, full_products
from gradsim_assets.core.evaluation.one_step import LossChanges
from gradsim_assets.core.gradients.dot_products import product_frame
from gradsim_assets.core.gradients.engine import run_pass
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets_tests.support.analysis_data import block_names, realistic
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny

SETTING = SETTINGS[0]


def five_million():
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=211, n_embd=288, n_layer=5, n_head=4)).eval()


def table_of(model, dtype=torch.float64):
    """The table of a model for the pairs of a small request, from the engine's own products."""
    request = small_request(originals=6, variants=6)
    products = full_products(
        product_frame(run_pass(model, request), SETTING, request.pairs[SETTING]),
    )
    plain = PlainAutograd(model, [parameter for _, parameter in trainable_components(model)], "cpu")
    originals = {sample.id: sample for sample in request.originals}
    variants = {sample.id: sample for sample in request.variants[SETTING]}
    with plain.widened(dtype):
        return products, first_order(products, LossChanges(plain, originals, variants))


@pytest.mark.parametrize("make", [five_million, *(lambda kind=kind: tiny(kind) for kind in ("olmo", "llama", "gpt2"))])
def test_products_predict_what_a_small_step_does(make):
    _, (frame, step) = table_of(make())
    found = fit(frame)
    assert found.pairs == 18
    assert found.r is not None and found.r >= 0.99
    assert found.slope == pytest.approx(1, abs=0.02)
    assert step.halving_error <= 1e-3


def test_in_float32_too():
    _, (frame, step) = table_of(five_million(), torch.float32)
    found = fit(frame)
    # Rounding of the weights' step and of the forward passes is left; the step is chosen to keep it small.
    assert found.r is not None and found.r >= 0.99 and found.slope == pytest.approx(1, abs=0.02)
    assert step.halving_error < 0.05


def test_wrong_products_predict_nothing():
    products, (frame, step) = table_of(tiny("gpt2"))
    shuffled = products["dot_product"].to_numpy()[np.random.default_rng(0).permutation(len(products))]
    wrong = frame.with_columns(predicted=pl.Series(-step.learning_rate * shuffled))
    r = fit(wrong).r
    assert r is not None and abs(r) < 0.7
    assert fit(frame.with_columns(predicted=2 * pl.col("predicted"))).slope == pytest.approx(0.5, abs=0.01)


def test_pairs_are_spread_over_variants_and_own_originals_are_among_them():
    products = full_products(realistic(20, 5, block_names(1)))
    chosen = choose_pairs(products, 12)
    variants = chosen["variant_id"].unique(maintain_order=True)
    assert chosen.height == 12 and len(variants) == 6
    own = chosen.filter(pl.col("variant_id") == pl.col("original_id"))
    assert set(own["variant_id"]) == set(variants)
    assert chosen.join(products, on=products.columns, how="semi").height == 12
    rows = products.rows()
    random.Random(3).shuffle(rows)
    assert choose_pairs(pl.DataFrame(rows, schema=products.schema, orient="row"), 12).rows() == chosen.rows()
    assert choose_pairs(products, 1000).height == products.height


def test_sums_are_over_all_components():
    table = realistic(4, 3, block_names(2))
    products = full_products(table)
    for row in products.rows(named=True):
        part = table.filter(variant_id=row["variant_id"], original_id=row["original_id"])
        assert row["dot_product"] == pytest.approx(part["dot_product"].sum(), rel=1e-12)
        assert row["original_self"] == pytest.approx(part["original_self"].sum(), rel=1e-12)


def test_the_step_is_where_neither_curvature_nor_rounding_shows():
    noise = np.random.default_rng(0)

    def measure(pairs, step):
        rate = step.learning_rate
        return {pair: -rate + 50 * rate**2 + float(noise.normal(0, 1e-9)) for pair in pairs}

    chosen = choose_step(measure, [("a", "a"), ("b", "b")], squared_length=2.0)
    # Half a step fails to do half by 25 rate (of 1): 1e-3 is reached at 4e-5, and 5e-5 and 5e-6 are on offer.
    assert chosen.learning_rate == pytest.approx(5e-6)
    assert chosen.halving_error < 1e-3


def test_a_step_that_does_nothing_is_refused():
    with pytest.raises(InputError, match="no step on an original changes the loss"):
        choose_step(lambda pairs, step: dict.fromkeys(pairs, 0.0), [("a", "a")], 1.0)


def test_gradients_without_length_are_refused():
    products = pl.DataFrame({"variant_id": ["a"], "original_id": ["a"], "dot_product": [0.0], "original_self": [0.0]})
    with pytest.raises(InputError, match="no pair has an original whose gradient has a length"):
        first_order(products, lambda pairs, step: {})


def test_a_fit_of_what_does_not_differ_is_undefined():
    frame = pl.DataFrame({"predicted": [0.0, 0.0], "measured": [1.0, 2.0]})
    assert fit(frame).r is None and fit(frame).slope is None
