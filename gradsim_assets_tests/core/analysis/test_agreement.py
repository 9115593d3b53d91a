"""Agreement of every component with the full gradient, against a plain-Python implementation."""

import numpy as np
import pytest

from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.scoring import resampled
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


@pytest.mark.parametrize("accidents", [False, True])
def test_the_interval_of_the_agreement_is_that_of_resampled_variants(accidents):
    frame = products(7, 3, NAMES[:3], 5, accidents)
    table = agreement(PairProducts.from_frame(frame, NAMES[:3]))
    variants = frame["variant_id"].unique(maintain_order=True).to_list()
    rows = {name: frame.filter(variant_id=name).rows() for name in variants}
    found = []
    for times in resampled(len(variants)):
        drawn = [
            (f"{name} {copy}", *row[1:])
            for name, count in zip(variants, times, strict=True)
            for copy in range(int(count))
            for row in rows[name]
        ]
        found.append([brute_force.rho(drawn, [name]) for name in NAMES[:3]])
    expected = np.quantile(np.array(found, dtype=float), [0.025, 0.975], axis=0)
    for name, ends in zip(("agreement_low", "agreement_high"), expected, strict=True):
        assert table[name].fill_null(float("nan")).to_list() == pytest.approx(ends.tolist(), rel=1e-9, nan_ok=True)


def test_one_variant_alone_has_an_agreement_without_an_interval():
    table = agreement(PairProducts.from_frame(products(5, 3, NAMES).head(3 * len(NAMES)), NAMES))
    assert table["agreement"].null_count() == 0
    assert table["agreement_low"].null_count() == table["agreement_high"].null_count() == len(NAMES)
