"""Means by family against a plain loop."""

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.report.family_means import family_means
from gradsim_assets.core.components import component_type, family
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names, products

NAMES = [*block_names(2), "lm_head.weight"]


@pytest.mark.parametrize("accidents", [False, True])
def test_means_are_those_of_a_plain_loop(accidents: bool) -> None:
    frame = products(20, 4, NAMES, 2, accidents)
    table = gradient_similarity(PairProducts.from_frame(frame, NAMES))
    found = {one.name: one for one in family_means(table)}
    assert set(found) == {wording.FAMILY_NAMES[family(component_type(name))] for name in NAMES}
    for label, one in found.items():
        members = [name for name in NAMES if wording.FAMILY_NAMES[family(component_type(name))] == label]
        assert one.components == len(members)
        right = [[rank == 1 for rank in brute_force.ranks(frame.rows(), [name])] for name in members]
        assert one.accuracy is not None and one.accuracy[0] == pytest.approx(np.mean(right), abs=1e-12)
        rows = table.filter(pl.col("component").is_in(members), pl.col("similarity").is_not_null())
        own, highest = [], []
        for _, part in rows.group_by("variant_id", maintain_order=True):
            mine = part.filter(pl.col("variant_id") == pl.col("original_id"))["similarity"]
            own += [mine.mean()] if len(mine) else []
            highest.append(part.group_by("component").agg(pl.col("similarity").max())["similarity"].mean())
        assert one.own is not None and one.own[0] == pytest.approx(np.mean(own), abs=1e-12)
        assert one.highest is not None and one.highest[0] == pytest.approx(np.mean(highest), abs=1e-12)
        for value, low, high in (one.accuracy, one.own, one.highest):
            assert low is not None and high is not None and low <= value <= high
