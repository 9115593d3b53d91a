"""Similarity with the own original and where it diverges, against a plain-Python implementation."""

import itertools

import pytest

from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(2)


@pytest.mark.parametrize("seed", range(5))
def test_self_similarity_against_brute_force(seed):
    frame = products(20, 5, NAMES, seed, accidents=True)
    size = dict(sizes(NAMES, seed).select("component", "parameters").iter_rows())
    right = {c: sum(r == 1 for r in brute_force.ranks(frame.rows(), [c])) for c in NAMES}
    best = min(NAMES, key=lambda c: (-right[c], size[c], NAMES.index(c)))
    table = brute_force.table(frame.rows())
    found = self_similarity(PairProducts.from_frame(frame, NAMES), sizes(NAMES, seed))
    assert found["variant_id"].unique(maintain_order=True).to_list() == list(table)
    divergences = {}
    for row in found.rows(named=True):
        own = table[row["variant_id"]].get(row["variant_id"], {})
        full = brute_force.similarity(own, NAMES)
        top = brute_force.similarity(own, [best])
        assert brute_force.same(row["similarity"], brute_force.similarity(own, [row["component"]]))
        assert brute_force.same(row["full_gradient"], full)
        assert brute_force.same(row["best_component"], top)
        divergences[row["variant_id"]] = -1.0 if None in (full, top) else abs(full - top)
        assert brute_force.same(row["divergence"], None if None in (full, top) else abs(full - top))
    order = found.group_by("variant_id").first().sort("divergence_rank")["variant_id"].to_list()
    ranked = [divergences[variant] for variant in order]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(ranked))
    assert found["divergence_rank"].n_unique() == len(table)


def test_an_empty_table_gives_an_empty_one():
    assert self_similarity(PairProducts.from_frame(schemas.DOT_PRODUCTS.empty())).is_empty()
