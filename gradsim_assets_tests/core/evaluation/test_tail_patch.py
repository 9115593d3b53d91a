"""Which originals a method puts on top, and what is said of the steps on them."""

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.step import Step
from gradsim_assets.core.evaluation.tail_patch import (
    DOT_PRODUCT,
    RANDOM,
    Scores,
    Top,
    chosen_variants,
    held_out_component,
    method_scores,
    pairs_of,
    random_tops,
    tail_patch,
    tail_patch_summary,
    tops,
)
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support.analysis_data import block_names, bm25, realistic

NAMES = block_names(2)
STEP = Step("adam", 1e-5)


def texts(ids, word):
    rows = [
        {
            "id": one,
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": f"{word} {one} {one[-1] * 9}"},
            ],
        }
        for one in ids
    ]
    return pl.DataFrame(rows, schema={"id": pl.String, "messages": schemas.MESSAGES})


@pytest.fixture(scope="module")
def table():
    return realistic(24, 5, NAMES)


@pytest.fixture(scope="module")
def pairs(table):
    return PairProducts.from_frame(table)


def test_every_method_scores_the_pairs_of_the_dot_products(table, pairs):
    variants, originals = (texts(pairs.candidates.variants, word) for word in ("says", "said"))
    scores = {one.method: one.values for one in method_scores(pairs, bm25(table), variants, originals)}
    assert list(scores) == ["bm25", "text_overlap", schemas.FULL_GRADIENT, DOT_PRODUCT, "best_component"]
    assert all(values.shape == pairs.candidates.variant.shape for values in scores.values())
    summed = table.group_by("variant_id", "original_id").agg(pl.col("dot_product").sum())
    assert scores[DOT_PRODUCT] == pytest.approx(pairs.candidates.align(summed, "dot_product"))
    overlaps = with_text_overlap(variants, originals, "variants")
    own = dict(overlaps.select("id", "text_overlap").iter_rows())
    slots = pairs.candidates.slots[0]
    assert scores["text_overlap"][slots].tolist() == [own[name] for name in pairs.candidates.variants]
    with pytest.raises(InputError, match="of which there is no text of both"):
        method_scores(pairs, bm25(table), variants.head(3), originals)


def test_preconditioned_gradients_are_methods_where_there_are_products_of_theirs(table, pairs):
    variants, originals = (texts(pairs.candidates.variants, word) for word in ("says", "said"))
    negated = table.with_columns(dot_product=-pl.col("dot_product"), preconditioner=pl.lit("ekfac"))
    found = method_scores(pairs, bm25(table), variants, originals, preconditioned=negated)
    scores = {one.method: one.values for one in found}
    assert list(scores)[2:6] == [schemas.FULL_GRADIENT, DOT_PRODUCT, "ekfac", "ekfac_dot_product"]
    assert scores["ekfac"] == pytest.approx(-scores[schemas.FULL_GRADIENT])
    assert scores["ekfac_dot_product"] == pytest.approx(-scores[DOT_PRODUCT])


def test_the_component_of_a_variant_does_not_depend_on_that_variant(table, pairs):
    chosen, values = held_out_component(pairs)
    assert set(chosen) == set(pairs.candidates.variants) and None not in chosen.values()
    assert len(set(chosen.values())) <= 2  # one of each half
    for variant in pairs.candidates.variants[:6]:
        mine = pl.col("variant_id") == variant
        worse = table.with_columns(dot_product=pl.when(mine).then(-pl.col("dot_product")).otherwise("dot_product"))
        assert held_out_component(PairProducts.from_frame(worse))[0][variant] == chosen[variant]
    row = pairs.components.index(str(chosen[pairs.candidates.variants[0]]))
    first = pairs.candidates.variant == 0
    assert np.array_equal(values[first], pairs.similarity[row][first])


def test_one_variant_has_no_half_to_choose_on():
    chosen, values = held_out_component(PairProducts.from_frame(realistic(1, 1, NAMES)))
    assert set(chosen.values()) == {None} and np.isnan(values).all()


def test_the_highest_scores_come_first_and_ties_keep_the_order_of_the_candidates(pairs):
    candidates, count = pairs.candidates, len(pairs.candidates.variant)
    place = (
        np.arange(count) - np.searchsorted(candidates.variant, np.arange(len(candidates.variants)))[candidates.variant]
    )
    falling, flat = Scores("a", -place.astype(float), {}), Scores("b", np.zeros(count), {})
    partly = Scores("c", np.where(place == 0, np.nan, place), {})
    undefined = Scores("d", np.full(count, np.nan), {})
    found = {one.method: one for one in tops(pairs, [falling, flat, partly, undefined], [candidates.variants[3]], 2)}
    mine = candidates.originals[candidates.variant == 3].tolist()
    assert found["a"].originals == found["b"].originals == tuple(mine[:2])
    assert found["c"].originals == (mine[4], mine[3])
    assert "d" not in found


def test_as_many_as_there_are_candidates_are_refused(pairs):
    with pytest.raises(InputError, match=r"evaluation.top = 5, but variants have at most 5 candidates"):
        tops(pairs, [], pairs.candidates.variants, 5)


def test_variants_and_random_originals_are_drawn_whatever_the_order():
    ids = [f"lima_{number}" for number in range(40)]
    assert chosen_variants(ids[::-1], 7) == chosen_variants(ids, 7) == chosen_variants(ids, 9)[:7]
    assert sorted(chosen_variants(ids, 99)) == sorted(ids)
    found = random_tops(ids[:3], ids, 4, 3)
    assert found == random_tops(ids[:3], ids[::-1], 4, 3)
    assert all(len(top.originals) == 12 for top in found)
    assert all(len(set(top.originals[start : start + 4])) == 4 for top in found for start in (0, 4, 8))
    assert len({top.originals for top in found}) == 3
    assert {len(top.originals) for top in random_tops(ids[:2], ids[:3], 9, 2)} == {6}  # all there are, twice


def test_a_row_is_the_mean_over_its_originals_with_the_sign_of_the_log_probability():
    chosen = [Top("m", "v", ("a", "b"), "c"), Top(RANDOM, "v", ("b", "gone", "b")), Top("m", "w", ("gone",))]
    asked = []

    def measure(pairs, step):
        asked.extend(pairs)
        return {pair: {"a": -3.0, "b": 1.0}[pair[1]] for pair in pairs if pair[1] != "gone"}

    frame = tail_patch(chosen, measure, STEP)
    assert asked == list(pairs_of(chosen).iter_rows()) == [("v", "a"), ("v", "b"), ("v", "gone"), ("w", "gone")]
    assert frame.rows() == [("m", "v", ["a", "b"], 1.0, "c"), (RANDOM, "v", ["b", "b"], -1.0, None)]


def rows(**by_method):
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "method": method,
                    "variant_id": [f"v{n}" for n in range(len(values))],
                    "log_probability_change": values,
                }
            )
            for method, values in by_method.items()
        ]
    )


def test_the_difference_to_random_is_paired():
    noise = np.random.default_rng(0).normal(0, 1, 50)
    summary = {row["method"]: row for row in tail_patch_summary(rows(m=noise + 0.01, random=noise)).rows(named=True)}
    found = summary["m"]
    assert found["change"] == pytest.approx(noise.mean() + 0.01) and found["variants"] == 50
    # The noise is that of the variants, which both share: without pairing 0.01 would drown in it.
    assert found["change_low"] < 0 < found["change_high"]
    assert found["over_random"] == pytest.approx(0.01)
    assert summary[RANDOM]["over_random"] is summary[RANDOM]["over_random_low"] is None


def test_a_summary_is_over_the_variants_that_every_method_has():
    frame = rows(m=np.array([1.0, 2.0, 4.0]), random=np.array([0.0, 1.0]))
    summary = tail_patch_summary(frame)
    assert summary["variants"].to_list() == [2, 2]
    assert summary.filter(method="m")["change"].item() == 1.5


def test_a_random_method_is_no_better_than_random():
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = tail_patch_summary(rows(m=rng.gamma(2, 1, 64), random=rng.gamma(2, 1, 64))).filter(method="m")
        held += found["over_random_low"].item() <= 0 <= found["over_random_high"].item()
    assert held >= 93


def test_a_better_method_is_found_to_be_better(pairs):
    """Where a step on an original does what a method's score says, that method's tops do most, and random ones little."""
    values = dict(zip(pairs.candidates.frame.iter_rows(), pairs.full_similarity, strict=True))
    rng = np.random.default_rng(0)
    scores = [Scores("true", pairs.full_similarity, {}), Scores("blind", rng.random(len(pairs.full_similarity)), {})]
    variants = list(pairs.candidates.variants)
    chosen = [*tops(pairs, scores, variants, 1), *random_tops(variants, variants, 1, 3)]

    def measure(asked, step):
        return {pair: -values.get(pair, 0.0) for pair in asked}

    summary = {row["method"]: row for row in tail_patch_summary(tail_patch(chosen, measure, STEP)).rows(named=True)}
    best = pairs.candidates.best(pairs.full_similarity)
    assert summary["true"]["change"] == pytest.approx(best.mean())
    assert summary["true"]["over_random_low"] > 0
    assert summary["blind"]["change"] < summary["true"]["change_low"]
