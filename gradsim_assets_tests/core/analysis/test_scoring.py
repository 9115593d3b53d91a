"""The bootstrap interval of an accuracy."""

import numpy as np

from gradsim_assets.core.analysis.scoring import bootstrap_interval


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    low, high = bootstrap_interval(rng.random((400, 300)) < 0.7)
    # 95 % of 400 with a standard error of 1.1 %; the percentile interval is a little short on 300 variants.
    assert 0.91 <= ((low <= 0.7) & (high >= 0.7)).mean() <= 0.98


def test_interval_depends_on_nothing_else():
    correct = np.random.default_rng(2).random((3, 50)) < 0.5
    together, alone = bootstrap_interval(correct), bootstrap_interval(correct[2:])
    assert (together[0][2], together[1][2]) == (alone[0][0], alone[1][0])
