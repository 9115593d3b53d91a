"""Halves of the originals."""

import random

import numpy as np

from gradsim_assets.core.evaluation.subsets import half

IDS = [f"lima_{number}" for number in range(101)]


def test_a_half_depends_on_the_ids_alone():
    shuffled = IDS.copy()
    random.Random(0).shuffle(shuffled)
    assert half(IDS, "07") == half(shuffled, "07") == half(set(IDS), "07")
    assert len(half(IDS, "07")) == 50


def test_halves_are_different_and_hold_every_original_equally_often():
    halves = [half(IDS, f"{number:02d}") for number in range(99)]
    assert len(set(halves)) == 99
    members = np.array([[one in found for one in IDS] for found in halves])
    # 99 throws of a coin: 5 standard deviations are 25.
    assert np.abs(members.sum(axis=0) - 49.0).max() < 25
    overlap = np.corrcoef(members.astype(float))[np.triu_indices(99, 1)]
    # Pairs of halves share no more than chance: the mean of 4,851 correlations of 101 ids.
    assert abs(overlap.mean()) < 0.01
