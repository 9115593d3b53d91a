"""Sketches of samples' gradients: those of plain gradients, however the work is cut up, and a killed pass goes on."""

import copy

import numpy as np
import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.index import sketching
from gradsim_assets.core.index.sketching import maps_of, sketch
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.reference import plain_gradient
from gradsim_assets_tests.support.adapters import KINDS, adapted
from gradsim_assets_tests.support.curvature_cases import CONFIGS, model_of, request

SAMPLES = request().originals
DIMENSION = 128

#: fp32: gradients of another batch, and sums in another order, differ by some 1e-7 of their lengths.
ROUNDING = 1e-5


def sketched(model, samples=SAMPLES, folder=None, options=None, progress=lambda *done: None, **more):
    return sketch(model, samples, DIMENSION, folder, options or PassOptions(), progress, lambda said: None, **more)


def off(one, other):
    return float((np.linalg.norm(one - other, axis=1) / np.linalg.norm(other, axis=1)).max())


def plain(model):
    """Sketches of whole gradients by plain autograd: [samples, d]."""
    hooks = GradientHooks(model)
    maps, rows = maps_of(hooks, DIMENSION), []
    for sample in SAMPLES:
        _, gradients = plain_gradient(model, sample, hooks.parameters)
        rows.append(sum(one.of_formed(gradient[None])[0] for one, gradient in zip(maps, gradients, strict=True)))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_sketches_are_those_of_plain_gradients(name):
    found = sketched(model_of(name))
    assert found.ids == [sample.id for sample in SAMPLES]
    assert off(found.sketches, plain(model_of(name))) < ROUNDING
    assert found.error is not None and found.error < ROUNDING and "compared with plain autograd" in found.verified


@pytest.mark.parametrize("kind", ["lora", "dora", "modules_to_save"])
def test_an_adapter_is_sketched_by_what_it_has_trained(kind):
    model = adapted(model_of("untied with biases"), KINDS[kind])
    assert off(sketched(model).sketches, plain(model)) < ROUNDING


def test_neither_batches_nor_blocks_nor_neighbours_change_a_sketch():
    whole = sketched(model_of("tied"), options=PassOptions(batch_tokens=400)).sketches
    alone = sketched(model_of("tied"), options=PassOptions(batch_tokens=0), block=3).sketches
    assert off(alone, whole) < ROUNDING
    few = sketched(model_of("tied"), SAMPLES[::-1][:4]).sketches
    assert off(few, whole[::-1][:4]) < ROUNDING


class KilledError(Exception):
    pass


def test_a_killed_pass_goes_on_behind_its_last_finished_block(tmp_path):
    def kill(done, total, what):
        assert total == len(SAMPLES)
        if done > 7:
            raise KilledError

    with pytest.raises(KilledError):
        sketched(model_of("tied"), folder=tmp_path, progress=kill, block=3)
    seen = []
    found = sketched(model_of("tied"), folder=tmp_path, progress=lambda done, total, what: seen.append(done), block=3)
    assert (found.blocks, found.blocks_restored, found.gradients_computed) == (4, 2, len(SAMPLES) - 6)
    assert seen == sorted(seen) and seen[-1] == len(SAMPLES)
    assert np.array_equal(found.sketches, sketched(model_of("tied"), block=3).sketches)
    again = sketched(model_of("tied"), folder=tmp_path, block=3)
    assert again.gradients_computed == 0 and again.blocks_restored == 4 and again.error is None
    assert np.array_equal(again.sketches, found.sketches)


def test_another_model_or_another_text_does_not_go_on_with_what_was_finished(tmp_path):
    sketched(model_of("tied"), folder=tmp_path)
    changed = model_of("tied")
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    assert sketched(changed, folder=tmp_path).blocks_restored == 0
    assert sketched(model_of("tied"), SAMPLES[1:], tmp_path).blocks_restored == 0


def test_a_wrong_sketch_is_refused(monkeypatch):
    right = sketching.ComponentSketch.of_factors

    def wrong(self, factors, dtype):
        return 1.01 * right(self, factors, dtype)

    monkeypatch.setattr(sketching.ComponentSketch, "of_factors", wrong)
    with pytest.raises(ArithmeticError, match="the sketch of lima_"):
        sketched(model_of("tied"))


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="there are none"):
        sketched(model_of("tied"), [], tmp_path)


def test_half_precision_is_allowed_what_its_rounding_explains():
    model = model_of("tied").to(torch.bfloat16)
    exact = plain(copy.deepcopy(model).float())
    found = sketched(model)
    # bfloat16 rounds every number of the model's arithmetic by 2^-9; a wrong tensor would be off by its whole length.
    assert 1e-6 < off(found.sketches, exact) < 0.1
