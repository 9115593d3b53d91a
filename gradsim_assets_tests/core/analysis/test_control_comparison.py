"""A model beside its controls, against plain Python, and what the report makes of it."""

import random

import polars as pl
import pytest

from gradsim_assets.core.analysis.control_comparison import control_comparison, of_full_gradient
from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.report.verdict import figures_of, verdict
from gradsim_assets.core.analysis.retrieval import retrieval
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, SETTINGS
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products

NAMES = block_names(2)


def similarity(frame):
    return gradient_similarity(PairProducts.from_frame(frame, NAMES))


def shuffled(frame, seed):
    rows = frame.rows()
    random.Random(seed).shuffle(rows)
    return pl.DataFrame(rows, schema=frame.schema, orient="row")


def another(frame, seed):
    """The same pairs with the terms of other gradients: those of another model, so to speak."""
    draw = random.Random(seed)
    return frame.with_columns(pl.Series("dot_product", [v * draw.choice((-1, 0, 1)) for v in frame["dot_product"]]))


@pytest.mark.parametrize("accidents", [False, True])
def test_every_component_is_compared_on_the_same_variants(accidents):
    frame = products(30, 5, NAMES, 3, accidents)
    other = another(frame, 1)
    table = control_comparison(similarity(frame), {"a/b+untrained": shuffled(similarity(other), 2)})
    assert table["component"].to_list() == similarity(frame)["component"].unique(maintain_order=True).to_list()
    assert set(table["control"]) == {"untrained"} and set(table["control_model"]) == {"a/b+untrained"}
    for row in table.rows(named=True):
        chosen = NAMES if row["component"] == FULL_GRADIENT else [row["component"]]
        mine, theirs = (brute_force.ranks(one.rows(), chosen) for one in (frame, other))
        right, wrong = [r == 1 for r in mine], [r == 1 for r in theirs]
        assert row["variants"] == len(mine)
        assert row["accuracy"] == pytest.approx(brute_force.accuracy(mine))
        assert row["control_accuracy"] == pytest.approx(brute_force.accuracy(theirs))
        assert row["difference"] == pytest.approx(row["accuracy"] - row["control_accuracy"])
        assert row["only_model_right"] == sum(a and not b for a, b in zip(right, wrong, strict=True))
        assert row["only_control_right"] == sum(b and not a for a, b in zip(right, wrong, strict=True))
        assert row["p_value"] == pytest.approx(brute_force.mcnemar(right, wrong), rel=1e-9)
        assert row["mrr"] - row["control_mrr"] == pytest.approx(row["mrr_difference"], abs=1e-12)
        assert row["control_mrr"] == pytest.approx(brute_force.mrr(theirs))
        assert row["difference_low"] < row["difference"] < row["difference_high"]
        assert row["mrr_difference_low"] <= row["mrr_difference"] <= row["mrr_difference_high"]


def test_variants_with_other_candidates_and_components_of_one_model_alone_are_left_out():
    frame = products(12, 4, NAMES, 0)
    first, second, third = frame["variant_id"].unique(maintain_order=True)[:3]
    own = pl.col("variant_id") == pl.col("original_id")
    dropped = frame.filter(
        (pl.col("variant_id") != first) & ((pl.col("variant_id") != second) | own), pl.col("component") != NAMES[1]
    )
    table = control_comparison(similarity(frame), {"base": similarity(dropped)})
    assert set(table["variants"]) == {10} and third in dropped["variant_id"]
    assert NAMES[1] not in table["component"].to_list() and NAMES[0] in table["component"].to_list()
    assert set(table["control"]) == {"base"}
    nothing = control_comparison(similarity(frame), {"base": similarity(frame).clear()})
    assert nothing.is_empty()


def test_a_model_equals_itself_and_has_no_row_without_a_control():
    frame = similarity(products(12, 4, NAMES, 0))
    table = control_comparison(frame, {"one+untrained": frame, "other": frame})
    assert table["difference"].to_list() == table["mrr_difference"].to_list() == [0.0] * 2 * (len(NAMES) + 1)
    assert set(table["p_value"]) == {1.0} and table["mrr_difference_low"].null_count() == table.height
    assert (table["difference_low"] < 0).all() and (table["difference_high"] > 0).all()
    assert control_comparison(frame, {}).is_empty() and of_full_gradient(None) == []


def figures(difference, low, high, control="untrained"):
    """A table `control_comparison` of the full gradient alone, with these figures."""
    row = control_comparison(SIMILARITY, {"org/model+untrained" if control == "untrained" else "org/base": SIMILARITY})
    full = row.filter(component=FULL_GRADIENT)
    return full.with_columns(
        accuracy=pl.lit(0.5 + difference),
        control_accuracy=pl.lit(0.5),
        difference=pl.lit(difference),
        difference_low=pl.lit(low),
        difference_high=pl.lit(high),
    )


SIMILARITY = similarity(products(12, 4, NAMES, 0))
RETRIEVAL = dict.fromkeys(SETTINGS, retrieval(PairProducts.from_frame(products(12, 4, NAMES, 0), NAMES)))


def test_the_first_sentence_says_where_the_model_is_not_above_its_untrained_self():
    clear, open_ = figures(0.3, 0.1, 0.5), figures(0.1, -0.1, 0.3)
    said = verdict("org/model", RETRIEVAL, dict(zip(SETTINGS, (clear, open_), strict=True)))
    assert said[0].startswith(
        "With model-generated variants the full gradient is not shown to find more own originals than that of the same model "
        "with random weights (+0.100 of accuracy (0.600 against 0.500, 95\u00a0% interval -0.100 to 0.300)), so that its figure"
    )
    assert said[1] == (
        "The model's full gradient finds more own originals than that of the same model with random weights: by +0.300 of "
        "accuracy (0.800 against 0.500, 95\u00a0% interval 0.100 to 0.500) with paraphrased variants."
    )
    above = verdict("org/model", RETRIEVAL, dict.fromkeys(SETTINGS, clear))
    assert above[0].startswith("The model's full gradient finds more") and above[0].count("by +0.300") == 2
    # An interval that ends at 0 is not above it.
    assert "is not shown" in verdict("org/model", RETRIEVAL, dict.fromkeys(SETTINGS, figures(0.1, 0.0, 0.2)))[0]
    before = pl.concat([clear, figures(0.05, -0.1, 0.2, "base")])
    said = verdict("org/model", RETRIEVAL, dict.fromkeys(SETTINGS, before))
    assert "more own originals than that of the model before its fine-tuning (+0.050" in said[1]


def test_without_a_control_the_report_says_how_to_add_one_and_a_control_says_that_it_is_one():
    for comparisons in ({}, dict.fromkeys(SETTINGS, figures(0.1, 0, 1).clear())):
        said = verdict("org/model", RETRIEVAL, comparisons)
        assert "`gradsim models add org/model --controls`" in said[0] and "`gradsim run org/model`" in said[0]
    (said,) = verdict("org/model+untrained", RETRIEVAL, {})
    assert said.startswith("This is a control: the configuration of org/model with random weights")


def test_text_overlap_is_a_control_without_a_model():
    pairs = PairProducts.from_frame(products(12, 4, NAMES, 0), NAMES)
    own = pairs.candidates.originals == [pairs.candidates.variants[v] for v in pairs.candidates.variant]
    table = retrieval(pairs, overlap=own.astype(float))
    row = table.row(by_predicate=pl.col("method") == "text_overlap", named=True)
    assert row["accuracy"] == 1.0
    assert row["difference"] == pytest.approx(table["accuracy"][0] - 1) and table["difference"][0] is None
    said = verdict("org/model", {"paraphrased": table}, {"paraphrased": figures(0.3, 0.1, 0.5)})
    assert f"than the overlap of the answers' texts ({table['accuracy'][0] - 1:+.3f} of accuracy" in said[-1]
    for high, finds, would in ((0.1, "is not shown to find more", "as well"), (-0.1, "finds fewer", "better")):
        known = table.with_columns(difference_high=pl.when(pl.col("difference").is_not_null()).then(high))
        said = verdict("org/model", {"paraphrased": known}, {"paraphrased": figures(-0.3, -0.5, high)})
        assert said[-1].startswith(
            f"With paraphrased variants the full gradient {finds} own originals than the overlap"
        )
        assert said[-1].endswith(f"so that comparing texts would do {would}.")
        assert said[0].startswith(
            f"With paraphrased variants the full gradient {finds} own originals than that of the same"
        )


def test_the_comparison_of_models_and_the_summary_tell_the_difference_beside_the_full_gradient():
    table = figures(0.3, 0.1, 0.5)
    compared = model_comparison({("m", s): RETRIEVAL[s] for s in SETTINGS}, {("m", SETTINGS[0]): table})
    rows = compared.filter(pl.col("untrained_difference").is_not_null()).rows(named=True)
    assert [(row["setting"], row["method"]) for row in rows] == [(SETTINGS[0], FULL_GRADIENT)]
    assert rows[0]["untrained_accuracy"] == 0.5 and rows[0]["untrained_difference_low"] == 0.1
    assert rows[0]["base_difference"] is None
    assert figures_of({SETTINGS[0]: table, SETTINGS[1]: None}) == {
        SETTINGS[0]: {
            "untrained": {
                "model": "org/model+untrained",
                "accuracy": 0.5,
                "mrr": table["control_mrr"][0],
                "difference": 0.3,
                "difference_low": 0.1,
                "difference_high": 0.5,
            }
        },
        SETTINGS[1]: {},
    }
