"""Random projections: unbiased, as precise as their dimension promises, the same everywhere."""

import hashlib
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.sample_gradients.projections import make_projector, projected_dimension, total_dimension
from gradsim_assets_tests.support.fresh_process import said_by

#: A small component is scattered into more dimensions than it has; the others are folded 7 and 100 times.
SIZES = (100, 3_600, 51_300)


def vectors(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(size, generator=generator)
    other = 0.5 * one + torch.randn(size, generator=generator)
    one[: size // 50] *= 20  # gradients are uneven: a few numbers carry most of the length
    return torch.stack([one, other])


def projected_products(size, proportion, draws, kind="fast"):
    pair = vectors(size)
    found = []
    for seed in range(draws):
        one, other = make_projector("layer", size, proportion, seed, kind)(pair)
        found.append(float(one @ other))
    return pair[0] @ pair[1], torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_are_unbiased(size):
    exact, found = projected_products(size, 0.01, 400)
    standard_error = found.std() / len(found) ** 0.5
    # A small component collides with nothing, so its product is exact up to fp32 rounding.
    assert abs(found.mean() - exact) <= 3 * standard_error + 1e-5 * abs(exact)


def test_trak_kind_is_unbiased_at_the_same_scale():
    exact, found = projected_products(400, 0.01, 30, "trak")
    assert abs(found.mean() - exact) <= 3 * found.std() / len(found) ** 0.5


def test_error_shrinks_with_the_root_of_the_dimension():
    size = 51_300
    errors, dimensions = [], []
    for proportion in (0.01, 0.04, 0.16):
        exact, found = projected_products(size, proportion, 300)
        errors.append(float((found - exact).pow(2).mean().sqrt()))
        dimensions.append(projected_dimension(size, proportion))
    for before, after in ((0, 1), (1, 2)):
        expected = (dimensions[before] / dimensions[after]) ** 0.5
        # The spread of 300 draws is known to about 4 %; a fifth is five of that.
        assert errors[after] / errors[before] == pytest.approx(expected, rel=0.2)


def test_error_is_that_of_a_dense_gaussian_projection_or_less():
    size = 51_300
    exact, found = projected_products(size, 0.01, 300)
    one, other = vectors(size)
    dense = float(((one @ one) * (other @ other) + exact**2) / projected_dimension(size, 0.01)) ** 0.5
    assert float(found.std()) <= 1.2 * dense


def test_structure_in_a_weight_matrix_does_not_bias_or_spread_it():
    # All energy in one column of a [100, 512] weight: every number of it would meet in one bucket without the shifts.
    size = 51_200
    one = torch.zeros(100, 512)
    one[:, 7] = torch.arange(100) / 10.0
    flat = one.reshape(1, -1)
    norms = torch.tensor([float(make_projector("w", size, 0.01, seed)(flat).square().sum()) for seed in range(300)])
    exact = float(flat.square().sum())
    assert abs(norms.mean() - exact) <= 3 * norms.std() / 300**0.5
    assert norms.std() <= 1.2 * exact * (2 / 512) ** 0.5


def test_a_gradient_is_projected_alike_in_any_batch():
    size = 3_600
    project = make_projector("layer", size, 0.05)
    batch = torch.randn(5, size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(project(batch)[3], project(batch[3:4])[0])


def test_components_are_projected_independently():
    pair = vectors(3_600)
    one = make_projector("model.layers.0.q_proj.weight", 3_600, 0.05)(pair)
    other = make_projector("model.layers.1.q_proj.weight", 3_600, 0.05)(pair)
    assert not torch.equal(one, other)


def test_processes_with_other_hash_seeds_project_alike():
    code = (
        "import torch, hashlib\n"
        "from gradsim_assets.core.sample_gradients.projections import make_projector\n"
        "x = torch.arange(3600.0).reshape(1, -1).sin()\n"
        "print(hashlib.sha256(make_projector('layer', 3600, 0.05, 3)(x).numpy().tobytes()).hexdigest())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "4711")
    }
    here = make_projector("layer", 3600, 0.05, 3)(torch.arange(3600.0).reshape(1, -1).sin())
    assert found == {hashlib.sha256(here.numpy().tobytes()).hexdigest()}


def test_script_weighting_leaves_the_scale_out():
    pair = vectors(3_600)
    right = make_projector("layer", 3_600, 0.05)(pair)
    script = make_projector("layer", 3_600, 0.05, weighting="script")(pair)
    torch.testing.assert_close(script, right * 512**0.5)


def test_dimensions_are_multiples_of_512_and_at_least_that():
    assert projected_dimension(100, 0.01) == 512
    assert projected_dimension(1_000_000, 0.01) == 10_240
    assert total_dimension([100, 1_000_000], 0.01) == 10_752


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"proportion": 0.0}, "proportion 0.0"),
        ({"proportion": 0.1, "kind": "dense"}, "kind 'dense'"),
        ({"proportion": 0.1, "weighting": "none"}, "weighting 'none'"),
    ],
)
def test_what_is_unknown_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        make_projector("layer", 100, **arguments)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux with CUDA")
def test_the_kernel_sums_in_the_order_of_row_by_row() -> None:
    """Triton's interpreter runs it on a CPU; a row of a larger tensor, with and without a last row that is cut off."""
    setup = """
import torch
from gradsim_assets.core.sample_gradients.projections import RolledSketch
def same(size, dimension, dtype):
    gradients = torch.randn(3, size + 7, dtype=dtype, generator=torch.Generator().manual_seed(0))[:, :size]
    sketch = RolledSketch("layer", size, dimension, 0)
    return torch.equal(sketch(gradients), sketch.by_kernel(gradients))
"""
    expression = (
        "[same(*case, dtype) for case in ((9_000, 512), (5_120, 512), (300, 512), (70_000, 1_536)) for dtype in "
    )
    assert said_by(setup, expression + "(torch.float32, torch.float64)]", TRITON_INTERPRET="1") == f"{[True] * 8}\n"
