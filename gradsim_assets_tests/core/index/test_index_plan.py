"""What an index costs on paper, against what is made: bytes of the table, work of the pass."""

import itertools

import numpy as np
import pytest
import torch

from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.index.gradient_index import index_frame
from gradsim_assets.core.index.index_plan import SIZES, index_plans
from gradsim_assets.core.index.search import LISTS_BEYOND
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets_tests.support.curvature_cases import model_of

LENGTHS = {f"lima_{number}": (40 + 10 * number, 20) for number in range(12)}
PROFILE = profile_of(torch.device("cpu"), torch.float32, "fp32")
SHAPE = measure(GradientHooks(model_of("tied")))


def plans(lengths=LENGTHS, rate=1e11, sizes=SIZES, dimension=512):
    return index_plans(SHAPE, lengths, dimension, PROFILE, rate, sizes)


def test_the_table_has_the_bytes_that_are_planned(tmp_path):
    rows = 3000
    frame = index_frame([f"generated_{n}" for n in range(rows)], np.random.default_rng(0).standard_normal((rows, 512)))
    frame.write_parquet(tmp_path / "index.parquet", compression="zstd")
    (plan,) = plans(sizes=[rows])
    # Random numbers do not compress but for the exponent of float16; ids do.
    assert (tmp_path / "index.parquet").stat().st_size == pytest.approx(plan.disk_bytes, rel=0.15)


def test_time_follows_tokens_originals_and_the_rate():
    seconds = [plan.seconds for plan in plans()]
    assert [b / a for a, b in itertools.pairwise(seconds)] == pytest.approx([10, 10, 10])
    twice = {name: (2 * length, labelled) for name, (length, labelled) in LENGTHS.items()}
    assert 1.5 < plans(twice)[0].seconds / seconds[0] <= 2
    assert plans(rate=2e11)[0].seconds == pytest.approx(seconds[0] / 2)


def test_lists_take_memory_for_their_centres_beyond_where_all_are_compared():
    few, many = plans(sizes=[LISTS_BEYOND, LISTS_BEYOND + 1])
    assert few.memory_bytes == few.disk_bytes and many.memory_bytes > many.disk_bytes
