"""How often every component finds the right original, against a plain-Python implementation."""

import pytest

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(2)


@pytest.mark.parametrize("accidents", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_accuracy_per_component_against_brute_force(seed, accidents):
    frame = products(30, 5, NAMES, seed, accidents)
    table = accuracy_per_component(PairProducts.from_frame(frame, NAMES), sizes(NAMES))
    assert table["component"].to_list() == NAMES
    assert table["parameters"].to_list() == sizes(NAMES)["parameters"].to_list()
    for row in table.rows(named=True):
        brute_force.check_figures(row, brute_force.ranks(frame.rows(), [row["component"]]))


def test_an_empty_table_gives_an_empty_one():
    assert accuracy_per_component(PairProducts.from_frame(schemas.DOT_PRODUCTS.empty())).is_empty()
