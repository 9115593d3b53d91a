"""Pairs read from dot products, and the cosines derived from them."""

import polars as pl
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products

NAMES = block_names(2)


@pytest.mark.parametrize("seed", range(5))
def test_against_brute_force(seed):
    frame = products(20, 5, NAMES, seed, accidents=True)
    expected = [
        (variant, original, name, brute_force.similarity(terms, NAMES if name == "full_gradient" else [name]))
        for variant, candidates in brute_force.table(frame.rows()).items()
        for original, terms in candidates.items()
        for name in [*NAMES, "full_gradient"]
    ]
    found = gradient_similarity(PairProducts.from_frame(frame, NAMES)).rows()
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert all(brute_force.same(a[3], b[3]) for a, b in zip(found, expected, strict=True))
    assert any(row[3] is None for row in found)  # the data holds what it is meant to hold


def test_from_shards_as_lazy_frame():
    frame = products(8, 3, NAMES)
    half = len(frame) // 2 // (3 * len(NAMES)) * 3 * len(NAMES)
    lazy = pl.concat([frame[:half].lazy(), frame[half:].lazy()])
    assert gradient_similarity(PairProducts.from_frame(lazy)).equals(
        gradient_similarity(PairProducts.from_frame(frame))
    )


def test_rows_of_a_variant_apart_from_each_other():
    frame = products(6, 3, NAMES)
    pairs = PairProducts.from_frame(frame)
    # Variants keep the order of first appearance, candidates the order within their variant.
    mixed = pl.concat([frame.filter(pl.col("component") == name) for name in NAMES])
    assert gradient_similarity(PairProducts.from_frame(mixed)).equals(gradient_similarity(pairs))


def test_model_order_from_outside():
    frame = products(4, 2, NAMES)
    assert PairProducts.from_frame(frame, NAMES[::-1]).components == tuple(NAMES[::-1])
    with pytest.raises(InputError, match=r"mlp.down_proj.*model does not have"):
        PairProducts.from_frame(frame, NAMES[:-1])


def test_doubled_row():
    frame = products(4, 2, NAMES)
    with pytest.raises(InputError, match=r"twice for component model\.embed"):
        PairProducts.from_frame(pl.concat([frame, frame[:1]]))


def test_empty_table():
    pairs = PairProducts.from_frame(schemas.DOT_PRODUCTS.empty())
    assert gradient_similarity(pairs).is_empty()
