"""Greedy selection, against a plain-Python implementation."""

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.greedy_selection import greedy_selection, halve
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(1)
CRITERIA = {
    "agreement": brute_force.rho,
    "accuracy": lambda rows, chosen: brute_force.accuracy(brute_force.ranks(rows, chosen)),
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("accidents", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_against_brute_force(seed, accidents, criterion):
    frame = products(15, 4, NAMES, seed, accidents)
    size = dict(sizes(NAMES, seed).select("component", "parameters").iter_rows())
    curve = brute_force.greedy(frame.rows(), CRITERIA[criterion], size)
    table = greedy_selection(PairProducts.from_frame(frame, NAMES), sizes(NAMES, seed), splits=0)
    table = table.filter(criterion=criterion, evaluation="same_ids")
    assert table["component"].to_list() == [component for component, _ in curve]
    assert table["value"].to_list() == pytest.approx([value for _, value in curve], rel=1e-12)
    assert table["round"].to_list() == list(range(1, len(NAMES) + 1))
    cumulated = [sum(size[c] for c, _ in curve[: n + 1]) / sum(size.values()) for n in range(len(NAMES))]
    assert table["parameter_share"].to_list() == pytest.approx(cumulated, rel=1e-12)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_held_out_against_brute_force(criterion):
    frame = products(15, 4, NAMES, 3, accidents=True)
    size = dict(sizes(NAMES).select("component", "parameters").iter_rows())
    pairs = PairProducts.from_frame(frame, NAMES)
    found = greedy_selection(pairs, sizes(NAMES), splits=2).filter(criterion=criterion, evaluation="held_out")
    assert found["split"].unique(maintain_order=True).to_list() == [1, 2]
    for split in (1, 2):
        selecting, scoring = halve(pairs.candidates.variants, split)
        rows = [
            frame.filter(pl.col("variant_id").is_in([pairs.candidates.variants[i] for i in half])).rows()
            for half in (selecting, scoring)
        ]
        curve = brute_force.greedy(rows[0], CRITERIA[criterion], size)
        chosen = [component for component, _ in curve]
        part = found.filter(split=split)
        assert part["component"].to_list() == chosen
        assert part["selection_value"].to_list() == pytest.approx([value for _, value in curve], rel=1e-12)
        scores = [CRITERIA[criterion](rows[1], chosen[: n + 1]) for n in range(len(chosen))]
        assert part["value"].to_list() == pytest.approx(scores, rel=1e-12)


def test_ties_go_to_the_smaller_component_then_to_model_order():
    # Four components that say exactly the same: every round is a tie.
    one = products(6, 3, ["a"])
    frame = pl.concat([one.with_columns(component=pl.lit(name)) for name in "abcd"])
    table = pl.DataFrame({"component": list("abcd"), "parameters": [9, 5, 9, 5]})
    for criterion in CRITERIA:
        chosen = greedy_selection(PairProducts.from_frame(frame), table, splits=0).filter(criterion=criterion)
        assert chosen["component"].to_list() == ["b", "d", "a", "c"]


@pytest.mark.parametrize("seed", range(4))
def test_what_differs_by_rounding_alone_is_a_tie(seed):
    """Otherwise every machine would choose among them in another way."""
    one, noise = products(6, 3, ["a"]), np.random.default_rng(seed)
    frame = pl.concat(
        one.with_columns(
            pl.lit(name).alias("component"),
            pl.col("dot_product") * (1 + 1e-7 * pl.Series(noise.standard_normal(one.height))),
        )
        for name in "abcd"
    )
    table = pl.DataFrame({"component": list("abcd"), "parameters": [9, 5, 9, 5]})
    for criterion in CRITERIA:
        chosen = greedy_selection(PairProducts.from_frame(frame), table, splits=0).filter(criterion=criterion)
        assert chosen["component"].to_list() == ["b", "d", "a", "c"]


def test_without_sizes_the_share_is_unknown_and_the_rest_stands():
    pairs = PairProducts.from_frame(products(6, 3, NAMES))
    table = greedy_selection(pairs, splits=1)
    assert table["parameter_share"].null_count() == len(table)
    assert table["value"].null_count() == 0
    assert agreement(pairs)["parameters"].null_count() == len(NAMES)


def test_last_round_is_the_full_gradient():
    pairs = PairProducts.from_frame(products(15, 4, NAMES))
    last = greedy_selection(pairs, sizes(NAMES), splits=0).filter(round=len(NAMES), criterion="agreement")
    assert last["value"][0] == pytest.approx(1, abs=1e-12)
    assert last["parameter_share"][0] == pytest.approx(1, abs=1e-12)


def test_halves_do_not_depend_on_order_or_company():
    ids = [f"lima_{i}" for i in range(101)]
    selecting, scoring = halve(ids, 1)
    assert (len(selecting), len(scoring)) == (51, 50)
    assert sorted([*selecting, *scoring]) == list(range(101))
    other = halve(ids[::-1], 1)[0]
    assert {ids[::-1][i] for i in other} == {ids[i] for i in selecting}
    assert set(halve(ids, 2)[0]) != set(selecting)


def test_empty_and_single():
    empty = PairProducts.from_frame(schemas.DOT_PRODUCTS.empty())
    assert agreement(empty).is_empty()
    assert greedy_selection(empty).is_empty()
    single = PairProducts.from_frame(products(3, 2, NAMES).filter(pl.col("variant_id") == "lima_0_0"))
    assert set(greedy_selection(single)["evaluation"]) == {"same_ids"}
