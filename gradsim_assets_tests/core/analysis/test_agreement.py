"""Agreement of every component with the full gradient, against a plain-Python implementation."""

import pytest

from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(1)


@pytest.mark.parametrize("accidents", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_agreement_against_brute_force(seed, accidents):
    frame = products(20, 5, NAMES, seed, accidents)
    table = agreement(PairProducts.from_frame(frame, NAMES), sizes(NAMES))
    assert table["component"].to_list() == NAMES
    expected = [brute_force.rho(frame.rows(), [name]) for name in NAMES]
    assert table["agreement"].to_list() == pytest.approx(expected, rel=1e-12)
