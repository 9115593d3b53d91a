"""Sketches of gradients: unbiased, as precise as said, exact where nothing need be left out, the same everywhere."""

import numpy as np
import pytest
import torch

from gradsim_assets.core.gradients.numerics_version import SKETCHES_VERSION
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.gradient_sketches import ComponentSketch
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.golden_numbers import uniform

#: fp32 sums of a few hundred products in another order.
ROUNDING = 1e-5


def factors(rows, outputs, inputs, seed=0, one_hot=False):
    """Of two samples whose gradients have something in common, of different numbers of rows."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(2, rows, outputs, generator=generator)
    if one_hot:
        left = torch.randint(0, outputs, (2, rows), generator=generator)
        left[1, : rows // 2] = left[0, : rows // 2]
    right = torch.randn(2, rows, inputs, generator=generator)
    right[1, : rows // 2] = right[0, : rows // 2]
    if not one_hot:
        left[1, : rows // 2] = left[0, : rows // 2]
    right[1, -2:] = 0  # a shorter sample is filled up with zeros
    return Factors(left, right)


def formed(one, outputs):
    out = torch.empty(len(one.right), outputs, one.right.shape[-1])
    one.add_to(out, fresh=True)
    return out


CASES = {
    "wide": (12, 300, 200, False),
    "one narrow side": (12, 20, 200, False),
    "embedding": (12, 500, 100, True),
    "narrow embedding": (12, 30, 100, True),
    "both narrow": (12, 20, 30, False),
}


@pytest.mark.parametrize("name", CASES)
def test_factors_and_formed_gradients_have_one_sketch(name):
    rows, outputs, inputs, one_hot = CASES[name]
    given = factors(rows, outputs, inputs, one_hot=one_hot)
    sketch = ComponentSketch("layer", (outputs, inputs), 512)
    by_factors, by_gradient = sketch.of_factors(given, torch.float32), sketch.of_formed(formed(given, outputs))
    torch.testing.assert_close(by_factors, by_gradient, rtol=0, atol=ROUNDING * float(by_gradient.norm()))


@pytest.mark.parametrize("name", CASES)
def test_products_are_unbiased(name):
    rows, outputs, inputs, one_hot = CASES[name]
    gradients = formed(factors(rows, outputs, inputs, one_hot=one_hot), outputs)
    exact = float((gradients[0] * gradients[1]).sum())
    found = []
    for seed in range(400):
        one, other = ComponentSketch("layer", (outputs, inputs), 128, seed).of_formed(gradients)
        found.append(float(one @ other))
    # Where nothing is folded the product is exact up to fp32 rounding.
    assert abs(np.mean(found) - exact) <= 3 * np.std(found) / 400**0.5 + ROUNDING * abs(exact)


def test_products_of_sums_over_components_are_unbiased_and_as_precise_as_said():
    shapes, dimension, side, draws = {"a": (90, 110), "b": (70, 130), "c": (300,)}, 256, 64, 400
    generator = torch.Generator().manual_seed(3)
    pairs = {name: torch.randn(2, *shape, generator=generator) for name, shape in shapes.items()}
    for pair in pairs.values():
        pair[1] += pair[0]
    flat = [torch.cat([pair[i].flatten() for pair in pairs.values()]).double() for i in range(2)]
    exact, found = float(flat[0] @ flat[1]), []
    for seed in range(draws):
        maps = {name: ComponentSketch(name, shape, dimension, seed, side) for name, shape in shapes.items()}
        one, other = sum(maps[name].of_formed(pair) for name, pair in pairs.items())
        found.append(float(one @ other))
    assert abs(np.mean(found) - exact) <= 3 * np.std(found) / draws**0.5
    variance = (float(flat[0] @ flat[0]) * float(flat[1] @ flat[1]) + exact**2) / dimension
    for pair in (pairs["a"].double(), pairs["b"].double()):
        product = float((pair[0] * pair[1]).sum())
        sizes = float(pair[0].square().sum() * pair[1].square().sum())
        variance += 2 / side * (sizes + product**2) * (1 + 1 / dimension)
    # A bound; the spread of 400 draws is known to about 4 %, of which a fifth is five.
    assert np.std(found) <= 1.2 * variance**0.5


def test_the_error_shrinks_with_the_root_of_the_dimension():
    gradients = torch.randn(2, 5000, generator=torch.Generator().manual_seed(1))
    errors = []
    for dimension in (64, 256, 1024):
        found = [
            (lambda a, b: float(a @ b))(*ComponentSketch("c", (5000,), dimension, seed).of_formed(gradients))
            for seed in range(300)
        ]
        errors.append(float(np.std(found)))
    # 300 draws know each spread to about 4 %.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2) and errors[1] / errors[2] == pytest.approx(2, rel=0.2)


def test_what_has_no_more_numbers_than_the_sketch_keeps_its_products():
    for shape in ((20, 30), (64, 64), (700,), ()):
        gradients = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
        found = ComponentSketch("layer", shape, 4096).of_formed(gradients)
        flat = gradients.reshape(3, -1)
        torch.testing.assert_close(found @ found.T, flat @ flat.T, rtol=ROUNDING, atol=ROUNDING * float(flat.norm()))


def test_a_sketch_is_linear_so_that_summands_need_not_meet():
    sketch = ComponentSketch("layer", (300, 200), 256)
    one, other = factors(8, 300, 200, 1), factors(12, 300, 200, 2)
    whole = sketch.of_formed(formed(one, 300) + formed(other, 300))
    parts = sketch.of_factors(one, torch.float32) + sketch.of_factors(other, torch.float32)
    torch.testing.assert_close(parts, whole, rtol=0, atol=ROUNDING * float(whole.norm()))


def test_components_are_sketched_independently():
    gradients = torch.randn(1, 90, 80, generator=torch.Generator().manual_seed(4))
    found = [ComponentSketch(name, (90, 80), 512).of_formed(gradients)[0] for name in ("layers.0.q", "layers.1.q")]
    cosine = torch.nn.functional.cosine_similarity(*found, dim=0)
    assert abs(float(cosine)) < 5 / 512**0.5  # five times what unlike directions have


SETUP = """
import hashlib, torch
from gradsim_assets.core.sample_gradients.gradient_sketches import ComponentSketch
def said():
    x = torch.arange(90.0 * 80).reshape(1, 90, 80).sin()
    return hashlib.sha256(ComponentSketch("layer", (90, 80), 128, 3).of_formed(x).numpy().tobytes()).hexdigest()
"""


def test_processes_with_other_hash_seeds_sketch_alike():
    found = {said_by(SETUP, "said()", PYTHONHASHSEED=seed) for seed in ("0", "4711")}
    assert len(found) == 1 and len(found.pop().strip()) == 64


#: Of the test below, under this version; raise it where the maps are to be others, for all indexes are then made anew.
RECORDED_VERSION = 1
RECORDED = {
    (90, 80): [9.668483974, 0.7097143239, 6.597701004, -3.21225473, -1.687758227, -6.063194176],
    (300,): [0.5604646488, -1.009727542, 2.34180475, 0.3976324685, 0.03389115703, 0.5215039032],
}


def test_maps_are_those_of_the_declared_version():
    assert SKETCHES_VERSION == RECORDED_VERSION, "a version was raised: record the numbers anew"
    for shape, then in RECORDED.items():
        size = int(np.prod(shape))
        gradients = torch.from_numpy(uniform("sketched", size)).reshape(1, *shape)
        found = ComponentSketch("model.layers.0.weight", shape, 64).of_formed(gradients)[0, :6]
        assert found.tolist() == pytest.approx(then, rel=1e-9), "other maps: raise SKETCHES_VERSION"
