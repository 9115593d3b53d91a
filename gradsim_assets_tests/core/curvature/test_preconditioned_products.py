"""Preconditioned products of every kind of component against brute force in float64 with explicit blocks."""

import numpy as np
import pytest
import torch

from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.curvature_frame import curvature_frame, typical_eigenvalue
from gradsim_assets.core.curvature.factor_files import StoredCurvature, Tuning
from gradsim_assets.core.gradients.engine import PassOptions, run_pass
from gradsim_assets.core.gradients.engine.results import TERMS
from gradsim_assets_tests.support.curvature_cases import (
    CONFIGS,
    brute_adam,
    brute_ekfac,
    model_of,
    request,
)
from gradsim_assets_tests.support.engine_cases import SETTINGS, brute_force

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
