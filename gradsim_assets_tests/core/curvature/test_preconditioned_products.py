"""Preconditioned products of every kind of component against brute force in float64 with explicit blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.curvature_frame import curvature_frame, typical_eigenvalue
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, run_pass
from gradsim_assets.core.gradients.engine.results import TERMS
from gradsim_assets.core.sample_gradients.device_profile import CPU
from gradsim_assets.core.sample_gradients.preconditioned_products import PlacedPreconditioner
from gradsim_assets_tests.support.curvature_cases import (
    CONFIGS,
    brute_adam,
    brute_ekfac,
    model_of,
    request,
)
from gradsim_assets_tests.support.engine_cases import SETTINGS, brute_force, too_little

#: What the issue allows of fp32, and what is left of a float64 model when it is stored and multiplied in float64.
OPTIONS = PassOptions()
ALLOWED = {torch.float32: 1e-5, torch.float64: 1e-9}


def computed(model, originals, kind, folder, fisher="empirical", options=OPTIONS, **tuning):
    report = compute_curvature(model, originals, kind, fisher, folder, options, lambda *done: None, lambda said: None)
    return StoredCurvature(
        kind, report.files, Tuning(**tuning), typical_eigenvalue(curvature_frame(report.files, fisher))
    ), report


def relative_error(found, exact):
    """The largest error over the preconditioned lengths of both gradients, in any component."""
    lengths = np.sqrt(exact[1] * exact[2])
    full = np.sqrt(exact[1].sum(1, keepdims=True) * exact[2].sum(1, keepdims=True))
    return (np.abs(found[0] - exact[0]) / np.maximum(lengths, 1e-5 * full)).max()


def products(result, setting, name):
    return np.stack([result.preconditioned[setting][name][term] for term in TERMS])


@pytest.mark.parametrize("name", CONFIGS)
def test_ekfac_products_equal_brute_force(name, tmp_path):
    wanted = request(preconditioned=dict.fromkeys(SETTINGS, ("ekfac",)))
    exact = {setting: brute_ekfac(model_of(name), wanted, setting, wanted.originals) for setting in SETTINGS}
    for dtype, allowed in ALLOWED.items():
        model = model_of(name, dtype)
        stored, _ = computed(model, wanted.originals, "ekfac", tmp_path)
        for form in ("formed", "factored"):
            result = run_pass(model, wanted, PassOptions(form=form, check_pairs=0), preconditioners={"ekfac": stored})
            for setting in SETTINGS:
                assert relative_error(products(result, setting, "ekfac"), exact[setting]) < allowed


@pytest.mark.parametrize("name", CONFIGS)
def test_adam_products_equal_brute_force(name, tmp_path):
    wanted = request(preconditioned=dict.fromkeys(SETTINGS, ("adam",)))
    gradients = [brute_force(model_of(name), one) for one in wanted.originals]
    moments = {n: torch.stack([one[n] for one in gradients]).square().mean(0) for n in gradients[0]}
    exact = {setting: brute_adam(model_of(name), wanted, setting, moments, 1e-3) for setting in SETTINGS}
    for dtype, allowed in ALLOWED.items():
        model = model_of(name, dtype)
        stored, _ = computed(model, wanted.originals, "adam", tmp_path, epsilon=1e-3)
        for form in ("formed", "factored"):
            result = run_pass(model, wanted, PassOptions(form=form, check_pairs=0), preconditioners={"adam": stored})
            for setting in SETTINGS:
                assert relative_error(products(result, setting, "adam"), exact[setting]) < allowed


def test_factors_that_do_not_fit_are_brought_in_turn_and_change_nothing(tmp_path):
    wanted = request(preconditioned=dict.fromkeys(SETTINGS, ("adam", "ekfac")))
    model = model_of("untied with biases")
    stored = {kind: computed(model, wanted.originals, kind, tmp_path)[0] for kind in ("adam", "ekfac")}
    options = PassOptions(profile=replace(CPU, work_bytes=2**10), check_pairs=0, tile=2, batch_tokens=0)
    work = GradientPass(model, wanted, options, stored)
    whole = work.run()
    assert work.plan.preconditioners_kept and "stay on the device" in whole.report.plan
    total = work.plan.preconditioner_bytes
    ws = [stored[kind].of(name) for kind in ("adam", "ekfac") for name in whole.components]
    taken = sum(4 * part.numel() for w in ws for part in (w.scale, w.left, w.right) if part is not None)
    assert taken <= total < 2 * taken  # rows of a small embedding might have had a basis
    scarce = replace(options, memory_bytes=4 * total - 1)
    work = GradientPass(model, wanted, scarce, stored)
    cut = work.run()
    assert not work.plan.preconditioners_kept and "layers are done in turn" in cut.report.plan
    assert work.plan.memory_bytes <= scarce.memory_bytes
    for setting in SETTINGS:
        for kind in ("adam", "ekfac"):
            assert relative_error(products(cut, setting, kind), products(whole, setting, kind)) < 5e-6  # rounding


def test_components_in_turn_have_the_same_preconditioned_products(tmp_path):
    wanted = request(preconditioned=dict.fromkeys(SETTINGS, ("adam", "ekfac")))
    model = model_of("tied")
    stored = {kind: computed(model, wanted.originals, kind, tmp_path)[0] for kind in ("adam", "ekfac")}
    whole = run_pass(model, wanted, preconditioners=stored)
    options = PassOptions(profile=replace(CPU, work_bytes=2**10))
    scarce = replace(options, memory_bytes=too_little(model, wanted, options, stored))
    cut = run_pass(model, wanted, scarce, preconditioners=stored)
    assert any("turns" in note for note in cut.report.notes)
    for setting in SETTINGS:
        for kind in ("adam", "ekfac"):
            assert relative_error(products(cut, setting, kind), products(whole, setting, kind)) < 5e-6  # rounding


def test_a_wrong_preconditioned_product_is_found(tmp_path, monkeypatch):
    wanted = request(preconditioned={SETTINGS[0]: ("ekfac",)})
    model = model_of("tied")
    stored, _ = computed(model, wanted.originals, "ekfac", tmp_path)
    placed = PlacedPreconditioner.of

    def wrong(self, component, device, dtype):
        found = placed(self, component, device, dtype)
        return replace(found, scale=found.scale * 1.001) if component == 2 else found

    good = run_pass(model, wanted, preconditioners={"ekfac": stored}).report.checks
    assert good.preconditioned_pairs == 3 and 0 < good.preconditioned_error < 1e-5
    monkeypatch.setattr(PlacedPreconditioner, "of", wrong)
    with pytest.raises(ArithmeticError, match=r"k_proj.weight: the ekfac product differs"):
        run_pass(model, wanted, preconditioners={"ekfac": stored})


def test_plain_products_are_what_they_are_without_preconditioners(tmp_path):
    plain = request(products=frozenset(SETTINGS))
    model = model_of("tied")
    stored, _ = computed(model, plain.originals, "adam", tmp_path)
    both = replace(plain, preconditioned=dict.fromkeys(SETTINGS, ("adam",)))
    one = run_pass(model, plain)
    other = run_pass(model, both, preconditioners={"adam": stored})
    for setting in SETTINGS:
        assert np.array_equal(one.dot_products[setting], other.dot_products[setting])
    assert one.report.gradients_computed == other.report.gradients_computed


def test_a_killed_pass_under_other_factors_is_begun_anew(tmp_path):
    wanted = request(preconditioned=dict.fromkeys(SETTINGS, ("ekfac",)))
    model, options = model_of("tied"), PassOptions(scratch=tmp_path / "pass", check_pairs=0)
    stored, report = computed(model, wanted.originals, "ekfac", tmp_path / "factors")
    first = run_pass(model, wanted, options, preconditioners={"ekfac": stored})
    assert run_pass(model, wanted, options, preconditioners={"ekfac": stored}).report.blocks_restored == 1
    other = StoredCurvature("ekfac", report.files, Tuning(damping=1.0), 0.0)
    again = run_pass(model, wanted, options, preconditioners={"ekfac": other})
    assert again.report.blocks_restored == 0
    setting = SETTINGS[0]
    assert not np.allclose(products(again, setting, "ekfac"), products(first, setting, "ekfac"))
