"""What every method finds, and paired tests against the full gradient, against a plain-Python implementation."""

import math
import random

import numpy as np
import polars as pl
import pytest
from sacrebleu import sentence_chrf

from gradsim_assets.core.analysis.retrieval import mcnemar, order_as_bm25, retrieval, text_overlap
from gradsim_assets.core.analysis.scoring import critical_value
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(2)


def scores(frame, seed, column, missing=0.0, **columns):
    """A table with a score per pair, whole numbers below 4, so that ties happen."""
    draw = random.Random(seed)
    pairs = frame.select("variant_id", "original_id").unique(maintain_order=True)
    kept = pairs.filter(pl.Series([draw.random() >= missing for _ in range(len(pairs))]))
    return kept.with_columns(
        pl.Series(column, [float(draw.randrange(4)) for _ in range(len(kept))]),
        *(pl.lit(value).alias(name) for name, value in columns.items()),
    )


def expected_ranks(frame, table, column):
    score = {(v, o): s for v, o, s in table.select("variant_id", "original_id", column).rows()}
    return [
        brute_force.rank({o: score.get((v, o)) for o in candidates}, v)
        for v, candidates in brute_force.table(frame.rows()).items()
    ]


def among(ranks):
    """By k how many standard errors the interval of one component's recall reaches that was chosen among all, by their ranks."""
    return lambda k: (critical_value(np.array([[r is not None and r <= k for r in row] for row in ranks])),)


@pytest.mark.parametrize("accidents", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_retrieval_against_brute_force(seed, accidents):
    frame = products(30, 5, NAMES, seed, accidents)
    rows = frame.rows()
    bm25 = scores(frame, seed, "score", missing=0.1)
    projected = pl.concat(
        scores(frame, seed + n, "similarity", missing=0.1, proportion=p, dimension=int(p * 10000))
        for n, p in enumerate((0.05, 0.01))
    )
    table = retrieval(PairProducts.from_frame(frame, NAMES), projected, bm25, sizes(NAMES))
    names = ["full_gradient", "projection_0.01", "projection_0.05", "bm25", "best_component", "chance"]
    assert table["method"].to_list() == names
    found = dict(zip(names, table.rows(named=True), strict=True))
    accuracies = {c: brute_force.accuracy(brute_force.ranks(rows, [c])) for c in NAMES}
    assert found["best_component"]["accuracy"] == max(accuracies.values())
    ranks = {
        "full_gradient": brute_force.ranks(rows, NAMES),
        "projection_0.01": expected_ranks(frame, projected.filter(proportion=0.01), "similarity"),
        "projection_0.05": expected_ranks(frame, projected.filter(proportion=0.05), "similarity"),
        "bm25": expected_ranks(frame, bm25, "score"),
        "best_component": brute_force.ranks(rows, [found["best_component"]["component"]]),
    }
    right = {name: [r == 1 for r in values] for name, values in ranks.items()}
    of_all = [brute_force.ranks(rows, [component]) for component in NAMES]
    for name, values in ranks.items():
        one_of_many = name == "best_component"
        brute_force.check_figures(found[name], values, among(of_all) if one_of_many else lambda k: ())
        assert found[name]["wrong"] == right[name].count(False)
        if name != "full_gradient":
            expected = brute_force.mcnemar(right["full_gradient"], right[name])
            expected = min(1, expected * len(NAMES)) if one_of_many else expected
            assert found[name]["p_value"] == pytest.approx(expected, rel=1e-9)
    assert found["full_gradient"]["p_value"] is None
    best = [
        max((s for t in c.values() if (s := brute_force.similarity(t, NAMES)) is not None), default=None)
        for c in brute_force.table(rows).values()
    ]
    best = sorted(value for value in best if value is not None)
    assert found["full_gradient"]["mean_best_similarity"] == pytest.approx(sum(best) / len(best), rel=1e-12)
    assert found["full_gradient"]["median_best_similarity"] == pytest.approx(np.median(best), rel=1e-12)
    assert found["bm25"]["mean_best_similarity"] is None  # a BM25 score is no cosine
    top, reciprocal, second = brute_force.chance(rows)
    assert found["chance"]["accuracy"] == pytest.approx(top, rel=1e-12)
    assert found["chance"]["mrr"] == pytest.approx(reciprocal, rel=1e-12)
    assert found["chance"]["recall_at_2"] == pytest.approx(second, rel=1e-12)
    assert found["chance"]["wrong"] == pytest.approx(30 * (1 - top), rel=1e-12)


@pytest.mark.parametrize("accidents", [False, True])
def test_figures_on_copies_and_on_other_answers_are_those_of_the_two_alone(accidents):
    frame = products(30, 5, NAMES, 3, accidents)
    variants = frame["variant_id"].unique(maintain_order=True).to_list()
    known = {name: number % 3 == 0 for number, name in enumerate(variants) if number != 7}  # of one nobody knows
    table = retrieval(PairProducts.from_frame(frame, NAMES), parameters=sizes(NAMES), verbatim=known)
    best = table.filter(method="best_component")["component"][0]
    for which, copied in (("verbatim", True), ("not_verbatim", False)):
        part = frame.filter(pl.col("variant_id").is_in([name for name, is_copy in known.items() if is_copy == copied]))
        count = part["variant_id"].n_unique()
        assert table[f"variants_{which}"].to_list() == [count] * 3
        for method, chosen in (("full_gradient", NAMES), ("best_component", [best])):
            ranks = brute_force.ranks(part.rows(), chosen)
            of_all = [brute_force.ranks(part.rows(), [component]) for component in NAMES]
            reach = among(of_all)(1) if method == "best_component" else ()
            row = table.row(by_predicate=pl.col("method") == method, named=True)
            brute_force.check_share(row, f"accuracy_{which}", sum(1 for r in ranks if r == 1), count, *reach)
        chance = table.row(by_predicate=pl.col("method") == "chance", named=True)
        assert chance[f"accuracy_{which}"] == pytest.approx(brute_force.chance(part.rows())[0], rel=1e-12)
        assert chance[f"accuracy_{which}_low"] is None


def test_without_copies_there_is_no_figure_of_them_and_without_texts_no_count():
    pairs = PairProducts.from_frame(products(6, 3, NAMES))
    none = retrieval(pairs, verbatim=dict.fromkeys(pairs.candidates.variants, False)).row(0, named=True)
    assert (none["variants_verbatim"], none["variants_not_verbatim"]) == (0, 6)
    assert none["accuracy_verbatim"] is none["accuracy_verbatim_low"] is None
    assert none["accuracy_not_verbatim"] == none["accuracy"]
    unknown = retrieval(pairs).row(0, named=True)
    assert {unknown[name] for name in unknown if "verbatim" in name} == {None}


def test_a_tie_is_wrong_and_an_undefined_similarity_never_wins():
    def row(variant, original, dot, original_self):
        return (variant, original, "c", dot, 1.0, original_self)

    frame = pl.DataFrame(
        [
            *(row("tie", "tie", 0.5, 1.0), row("tie", "x", 0.5, 1.0)),
            *(row("zero", "zero", 0.0, 0.0), row("zero", "x", -0.9, 1.0)),  # own original has no length
            *(row("rival", "rival", -0.9, 1.0), row("rival", "x", 0.0, 0.0)),  # the rival has none
            row("lost", "x", 0.1, 1.0),  # own original is missing
            row("alone", "alone", 0.1, 1.0),
        ],
        schema=list(schemas.DOT_PRODUCTS.columns),
        orient="row",
    )
    pairs = PairProducts.from_frame(frame)
    assert pairs.ranks.tolist() == [[2, math.inf, 1, math.inf, 1]]
    table = retrieval(pairs)
    assert table["method"].to_list() == ["full_gradient", "best_component", "chance"]
    assert table["accuracy"].to_list() == pytest.approx([0.4, 0.4, (3 * 0.5 + 0 + 1) / 5])
    assert table["mrr"][0] == pytest.approx((0.5 + 0 + 1 + 0 + 1) / 5)


def test_chance_is_what_shuffling_gives():
    frame = products(40, 5, NAMES, accidents=True)
    pairs = PairProducts.from_frame(frame)
    rng = np.random.default_rng(0)
    ranks = np.array([pairs.candidates.ranks(rng.random(len(pairs.candidates.variant))) for _ in range(4000)])
    chance = retrieval(pairs).filter(method="chance")
    # 4000 x 40 draws: the standard error is below 0.0013.
    assert chance["accuracy"][0] == pytest.approx((ranks == 1).mean(), abs=0.005)
    assert chance["mrr"][0] == pytest.approx((1 / ranks).mean(), abs=0.005)
    assert chance["recall_at_3"][0] == pytest.approx((ranks <= 3).mean(), abs=0.005)


def test_mcnemar_without_disagreement():
    right = np.array([True, False, True])
    assert mcnemar(right, right) == 1.0


def test_order_stands_in_for_bm25():
    frame = products(10, 4, NAMES)
    pairs = PairProducts.from_frame(frame)
    first = [next(iter(c)) == v for v, c in brute_force.table(frame.rows()).items()]
    table = retrieval(pairs, bm25=order_as_bm25(pairs))
    assert table.filter(method="bm25")["accuracy"][0] == pytest.approx(sum(first) / 10)


def test_projection_of_unknown_proportion_is_named_by_its_dimension():
    frame = products(6, 3, NAMES)
    projected = scores(frame, 0, "similarity", dimension=512).with_columns(
        pl.lit(None, dtype=pl.Float64).alias("proportion")
    )
    assert "projection_512d" in retrieval(PairProducts.from_frame(frame), projected)["method"].to_list()


def test_doubled_score():
    frame = products(6, 3, NAMES)
    bm25 = scores(frame, 0, "score")
    with pytest.raises(InputError, match="more than once"):
        retrieval(PairProducts.from_frame(frame), bm25=pl.concat([bm25, bm25[:1]]))


def test_empty_table():
    pairs = PairProducts.from_frame(schemas.DOT_PRODUCTS.empty())
    assert retrieval(pairs)["accuracy"].to_list() == [None, None]


def test_exhaustive_retrieval_reports_further_recalls():
    table = retrieval(PairProducts.from_frame(products(30, 30, NAMES)))
    assert {"recall_at_10", "recall_at_20"} <= set(table.columns)
    assert "recall_at_50" not in table.columns


def test_text_overlap_compares_answers_alone_and_a_tie_is_wrong():
    frame = products(4, 3, NAMES, 0)
    pairs = PairProducts.from_frame(frame, NAMES)
    ids = list(dict.fromkeys([*pairs.candidates.originals, *pairs.candidates.variants]))
    originals = sample_frame(
        [Sample(name, "the same prompt", f"answer number {place}") for place, name in enumerate(ids)]
    )
    texts = dict(zip(ids, (f"answer number {place}" for place in range(len(ids))), strict=True))
    first, second, third, fourth = pairs.candidates.variants
    rival = next(o for o in pairs.candidates.originals[pairs.candidates.variant == 1] if o != second)
    answers = {first: texts[first], second: texts[rival], third: "of no help: !?", fourth: texts[fourth]}
    variants = sample_frame([Sample(name, "another prompt", answer) for name, answer in answers.items()])
    overlap = text_overlap(pairs.candidates, variants, originals)
    wanted = [
        sentence_chrf(answers[variant], [texts[original]]).score
        for variant, original in pairs.candidates.frame.iter_rows()
    ]
    assert overlap.tolist() == wanted
    same = originals.with_columns(messages=originals["messages"].gather([0] * len(ids)))
    tied = text_overlap(pairs.candidates, variants, same)
    for scores_, right in ((overlap, 2), (tied, 0)):
        table = retrieval(pairs, parameters=sizes(NAMES), overlap=scores_)
        row = table.row(by_predicate=pl.col("method") == "text_overlap", named=True)
        assert round(row["accuracy"] * 4) == right and row["wrong"] == 4 - right
        assert row["mean_best_similarity"] is None and row["agreement"] is None  # no cosine
    lacking = text_overlap(pairs.candidates, variants, originals.filter(pl.col("id") != rival))
    assert np.isnan(lacking).sum() == (pairs.candidates.originals == rival).sum() > 0


def test_preconditioned_full_gradients_are_methods_of_their_own():
    frame, other = products(12, 4, NAMES, 0, False), products(12, 4, NAMES, 1, False)
    pairs = PairProducts.from_frame(frame)
    swapped = frame.drop("dot_product", "variant_self", "original_self").join(
        other, on=["variant_id", "original_id", "component"], how="left"
    )
    known = swapped.drop_nulls()  # pairs that both draw
    under = pl.concat(
        [frame.with_columns(preconditioner=pl.lit("ekfac")), known.with_columns(preconditioner=pl.lit("adam"))],
        how="diagonal",
    )
    found = {row["method"]: row for row in retrieval(pairs, preconditioned=under).iter_rows(named=True)}
    assert list(found)[:3] == ["full_gradient", "adam", "ekfac"]
    # The same products make the same figures, whatever they stand under.
    same = ("accuracy", "mrr", "mean_best_similarity")
    assert [found["ekfac"][name] for name in same] == pytest.approx([found["full_gradient"][name] for name in same])
    assert found["ekfac"]["agreement"] == pytest.approx(1) and found["ekfac"]["p_value"] == 1
    sums = known.group_by("variant_id", "original_id").agg(pl.col("dot_product", "variant_self", "original_self").sum())
    cosines = sums.with_columns(score=pl.col("dot_product") / (pl.col("variant_self") * pl.col("original_self")).sqrt())
    ranks = expected_ranks(frame, cosines, "score")
    assert found["adam"]["accuracy"] == pytest.approx(sum(rank == 1 for rank in ranks) / len(ranks))
