"""Every method as one matrix of scores, and what is removed because of it."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.candidates.bm25 import Index
from gradsim_assets.core.components import component_type
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.methods import COMPONENT, COMPONENT_TYPE, Method, Scored, methods, random_scores
from gradsim_assets.core.evaluation.removal import Removals, removal, removals, removed_count, removed_variants
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import ALL_PAIRS_PRECONDITIONED, ALL_PAIRS_PROJECTED, PRECONDITIONERS
from gradsim_assets_tests.support.analysis_data import block_names

NAMES = block_names(2)
VARIANTS, ORIGINALS = ("b", "a", "c"), ("c", "b", "a", "d", "e")


def samples(ids: tuple[str, ...], word: str) -> list[Sample]:
    return [Sample(name, f"the {word} {name} of {name}{name}", f"an answer about {name} and {word}") for name in ids]


def gradients_of(rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """By side and id: three parameters of every component."""
    sides = (("v", VARIANTS), ("o", ORIGINALS))
    return {(side, name): rng.standard_normal((len(NAMES), 3)) for side, ids in sides for name in ids}


def scored(lacking: tuple[str, str] | None = None) -> Scored:
    rng = np.random.default_rng(0)
    gradients = gradients_of(rng)
    rows = [
        {
            "variant_id": variant,
            "original_id": original,
            "component": component,
            "dot_product": float(gradients["v", variant][place] @ gradients["o", original][place]),
            "variant_self": float((gradients["v", variant][place] ** 2).sum()),
            "original_self": float((gradients["o", original][place] ** 2).sum()),
        }
        for variant in sorted(VARIANTS)
        for original in sorted(ORIGINALS)
        if (variant, original) != lacking
        for place, component in enumerate(NAMES)
    ]
    pairs = PairProducts.from_frame(pl.DataFrame(rows), NAMES)
    projected = pl.DataFrame(
        [
            (row["variant_id"], row["original_id"], 0.05, 512, 0.1 * number)
            for number, row in enumerate(rows[:: len(NAMES)])
        ],
        schema=ALL_PAIRS_PROJECTED.empty().schema,
        orient="row",
    )
    representations = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    sizes = parameters_per_component(dict.fromkeys(NAMES, 10))
    texts = samples(VARIANTS, "tree"), samples(ORIGINALS, "house")
    return Scored(*texts, pairs, sizes, projected, representations, preconditioned=under(gradients, lacking))


def weighed(name: str, gradient: np.ndarray) -> np.ndarray:
    """P times a gradient: a diagonal P that is another one for each preconditioner."""
    diagonal = np.linspace(1, 9, gradient.size) if name == "adam" else np.linspace(4, 1, gradient.size)
    return gradient * diagonal.reshape(gradient.shape)


def under(gradients: dict[tuple[str, str], np.ndarray], lacking: tuple[str, str] | None) -> pl.LazyFrame:
    """The table `all_pairs_preconditioned`, its rows in no order."""
    rows = [
        (
            *(variant, original, name, component),
            float(one[place] @ weighed(name, other)[place]),
            float(one[place] @ weighed(name, one)[place]),
            float(other[place] @ weighed(name, other)[place]),
        )
        for place, component in enumerate(NAMES)
        for name in reversed(PRECONDITIONERS)
        for (left, variant), one in gradients.items()
        for (right, original), other in gradients.items()
        if (left, right) == ("v", "o") and (variant, original) != lacking
    ]
    frame = pl.DataFrame(rows, schema=ALL_PAIRS_PRECONDITIONED.empty().schema, orient="row")
    return frame.sample(fraction=1, shuffle=True, seed=0).lazy()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one.ravel() @ other.ravel() / np.linalg.norm(one) / np.linalg.norm(other))


def test_every_method_is_there_and_has_a_score_for_every_pair() -> None:
    found = list(methods(scored()))
    names = [one.name for one in found if one.component is None]
    assert names == [
        *("bm25", "text_overlap", "representation", "full_gradient", "full_gradient_dot_product"),
        *("adam", "adam_dot_product", "ekfac", "ekfac_dot_product", "best_component", "projection_0.05", "random"),
    ]
    assert [one.component for one in found if one.name == COMPONENT] == list(NAMES)
    assert {one.component for one in found if one.name == COMPONENT_TYPE} == set(map(component_type, NAMES))
    assert {one.scores().shape for one in found} == {(3, 5)}


def test_scores_stand_in_the_row_of_their_variant_and_the_column_of_their_original() -> None:
    given = scored()
    gradients = gradients_of(np.random.default_rng(0))
    found = {(one.name, one.component): one.scores() for one in methods(given)}
    kinds = [component_type(name) for name in NAMES]
    index = Index([one.user for one in given.originals])
    for row, variant in enumerate(VARIANTS):
        np.testing.assert_array_equal(found["bm25", None][row], index.scores(given.variants[row].user))
        for column, original in enumerate(ORIGINALS):
            one, other = gradients["v", variant], gradients["o", original]
            cell = {name: scores[row, column] for name, scores in found.items()}
            assert cell["full_gradient", None] == pytest.approx(cosine(one, other))
            assert cell["full_gradient_dot_product", None] == pytest.approx(float((one * other).sum()))
            for name in PRECONDITIONERS:
                dot, own = (float((one * weighed(name, right)).sum()) for right in (other, one))
                length = float((other * weighed(name, other)).sum())
                assert cell[name, None] == pytest.approx(dot / np.sqrt(own * length))
                assert cell[f"{name}_dot_product", None] == pytest.approx(dot)
            assert cell[COMPONENT, NAMES[2]] == pytest.approx(cosine(one[2], other[2]))
            of_kind = [kind == kinds[2] for kind in kinds]
            assert cell[COMPONENT_TYPE, kinds[2]] == pytest.approx(cosine(one[of_kind], other[of_kind]))
            place = sorted(VARIANTS).index(variant) * 5 + sorted(ORIGINALS).index(original)
            assert cell["projection_0.05", None] == pytest.approx(0.1 * place)
            vectors = given.representations[0][row], given.representations[1][column]
            assert cell["representation", None] == pytest.approx(cosine(*vectors))
    assert found["text_overlap", None].argmax(axis=1).tolist() == [1, 2, 0]  # the own answer is the nearest text


def test_a_pair_that_is_not_there_has_no_score_and_a_strange_one_is_refused() -> None:
    found = {one.name: one for one in methods(scored(lacking=("a", "d"))) if one.component is None}
    for name in ("full_gradient", *PRECONDITIONERS, "ekfac_dot_product"):
        assert np.argwhere(np.isnan(found[name].scores())).tolist() == [[1, 3]]
    given = scored()
    with pytest.raises(InputError, match="all_pairs names c, which is no sample of now"):
        replace(given, variants=given.variants[:2]).dense(np.zeros(15))


def test_without_preconditioners_there_are_no_methods_of_theirs() -> None:
    names = {one.name for one in methods(replace(scored(), preconditioned=None))}
    assert names.isdisjoint({"adam", "adam_dot_product", "ekfac", "ekfac_dot_product"}) and "full_gradient" in names


def test_random_scores_of_a_pair_do_not_depend_on_the_order_of_the_others() -> None:
    variants, originals = samples(VARIANTS, "x"), samples(ORIGINALS, "y")
    found = random_scores(variants, originals)
    np.testing.assert_array_equal(random_scores(variants[::-1], originals[::-1]), found[::-1, ::-1])
    assert not np.array_equal(random_scores(variants, originals, seed=1), found)


def scores(*rows: list[float]):  # type: ignore[no-untyped-def]
    return lambda: np.array(rows)


def test_what_is_removed_is_on_top_and_equal_sets_are_trained_on_once() -> None:
    originals = [f"o{number}" for number in range(4)]
    ways = [
        Method("first", scores([0, 3, 2, 1], [5, 0, 0, 5])),
        Method("second", scores([0, 1, 0, 0], [float("nan"), float("nan"), 1, 0])),
        Method("random", scores([1, 0, 0, 0], [1, 0, 0, 0])),
        Method(COMPONENT, scores([1, 0, 0, 0], [1, 0, 0, 0]), "layer"),
    ]
    planned = removals(ways, ["v", "w"], originals, ["w", "v"], draws=2)
    assert planned.tops == {
        "first": {"w": {"o0"}, "v": {"o1"}},  # a tie goes by the id
        "second": {"w": {"o2"}, "v": {"o1"}},
    }
    assert len(planned.random) == 2 and all(len(one) == 1 for one in planned.random)
    assert planned.sets[0] == frozenset() and len(set(planned.sets)) == len(planned.sets)
    again = removals(ways, ["v", "w"], originals[::-1], ["v"], draws=2)
    assert again.random == planned.random
    assert [removed_count(n) for n in (20, 72, 160, 988)] == [1, 1, 2, 10]
    ids = [f"v{number}" for number in range(30)]
    assert removed_variants(ids, 5) == removed_variants(ids[::-1], 5) and len(removed_variants(ids, 99)) == 30


def test_an_increase_is_that_over_random_removal() -> None:
    one, other, drawn = frozenset(["a"]), frozenset(["b"]), [frozenset(["c"]), frozenset(["d"])]
    losses = {
        frozenset(): {"paraphrased": {"v": 1.0, "w": 2.0}},
        one: {"paraphrased": {"v": 1.9, "w": 2.1}},
        other: {"paraphrased": {"v": 1.2, "w": 2.5}},
        drawn[0]: {"paraphrased": {"v": 1.1, "w": 2.0}},
        drawn[1]: {"paraphrased": {"v": 1.3, "w": 2.2}},
    }
    planned = Removals({"good": {"v": one, "w": other}, "same": {"v": one, "w": one}}, drawn)
    found = removal(planned, losses, "paraphrased").rows(named=True)
    # Without random ones v loses 0.2 and w 0.1; without its own top v loses 0.9 and w 0.5.
    assert found[0]["loss_increase"] == pytest.approx((0.7 + 0.4) / 2)
    assert found[0]["random_increase"] == pytest.approx((0.2 + 0.1) / 2)
    assert found[1]["loss_increase"] == pytest.approx((0.7 + 0.0) / 2)
    assert found[0]["loss_increase_low"] == pytest.approx(0.4) and found[0]["loss_increase_high"] == pytest.approx(0.7)
    assert {row["removed"] for row in found} == {1} and {row["draws"] for row in found} == {2}
