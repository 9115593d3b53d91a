"""One variant under two models: ranks and decisions against brute force."""

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.sample_comparison import DECIDED, decisions, under_model
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import FULL_GRADIENT
from gradsim_assets_tests.support.analysis_data import block_names, products

NAMES = block_names(2)
COMPONENTS = (FULL_GRADIENT, NAMES[3])


def similarity(seed: int, accidents: bool = False) -> tuple[PairProducts, pl.LazyFrame]:
    pairs = PairProducts.from_frame(products(20, 4, NAMES, seed, accidents), NAMES)
    return pairs, gradient_similarity(pairs).lazy()


def ranks(pairs: PairProducts, component: str) -> dict[str, float]:
    values = (
        pairs.full_similarity if component == FULL_GRADIENT else pairs.similarity[pairs.components.index(component)]
    )
    return dict(zip(pairs.candidates.variants, pairs.candidates.ranks(values), strict=True))


@pytest.mark.parametrize("accidents", [False, True])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_variant_is_ranked_as_in_all_of_retrieval(component: str, accidents: bool) -> None:
    pairs, table = similarity(3, accidents)
    rows = table.collect()
    seen = set()
    for variant, expected in ranks(pairs, component).items():
        found = under_model(table, variant, component)
        assert (np.inf if found.rank is None else found.rank) == expected, variant
        seen.add(found.rank)
        listed = found.ranked["similarity"].to_list()
        known = [value for value in listed if value is not None]
        assert known == sorted(known, reverse=True) and None not in listed[: len(known)]
        if found.rank is not None:
            assert found.ranked["original_id"].to_list().index(variant) == found.rank - 1, "of equals it comes last"
        if found.margin is not None:
            assert (found.margin > 0) == (found.rank == 1)
        of_variant = rows.filter(variant_id=variant)
        for place in found.places:
            own = of_variant.filter(component=place.component, original_id=variant)["similarity"].to_list()
            assert [place.own] == (own or [None])
            others = of_variant.filter(pl.col("original_id") != variant, component=place.component)["similarity"]
            assert place.rival == others.max()
    assert component == FULL_GRADIENT or len(seen) > 2, "decisions of all kinds"


@pytest.mark.parametrize("component", COMPONENTS)
def test_those_on_which_models_differ_come_first(component: str) -> None:
    pairs, table = similarity(1)
    number = pl.col("variant_id").rank("dense") % 4
    turned = pl.col("similarity") * -1
    other = table.with_columns(similarity=pl.when(number.is_in([1, 2])).then(turned).otherwise("similarity"))
    table = table.with_columns(similarity=pl.when(number.is_in([2, 3])).then(turned).otherwise("similarity"))
    chosen = pl.col("component") == component
    found = decisions(table.filter(chosen), other.filter(chosen))
    order = [DECIDED.index(one) for one in found["decided"]]
    assert order == sorted(order) and set(order) == {0, 1, 2, 3}
    for variant, decided in found.iter_rows():
        right = [under_model(one, variant, component).rank == 1 for one in (table, other)]
        expected = {(True, False): "first", (False, True): "second", (True, True): "both", (False, False): "neither"}
        assert decided == expected[right[0], right[1]]
    assert set(found["variant_id"]) == set(pairs.candidates.variants)


def test_variants_with_other_candidates_are_left_out() -> None:
    _, table = similarity(1)
    rows = table.filter(pl.col("component") == FULL_GRADIENT).collect()
    lacking = rows["variant_id"][0]
    fewer = rows.filter((pl.col("variant_id") != lacking) | (pl.col("original_id") == lacking))
    assert lacking not in decisions(rows.lazy(), fewer.lazy())["variant_id"].to_list()
    assert decisions(rows.head(0).lazy(), rows.lazy()).is_empty()
