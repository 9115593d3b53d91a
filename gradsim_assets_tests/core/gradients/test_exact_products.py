"""The pass against brute force: whole gradients in float64, pair by pair."""

import numpy as np
import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
from gradsim_assets_tests.support.engine_cases import (
    CONFIGS,
    SETTINGS,
    brute_products,
    relative_error,
    sample,
    small_request,
    tiny,
)


@pytest.mark.parametrize("name", CONFIGS)
def test_products_equal_brute_force(name):
    request = small_request()
    result = run_pass(tiny(name), request)
    for setting in SETTINGS:
        names, (dots, variant_self, original_self) = brute_products(tiny(name), request, setting)
        assert result.components == names
        # fp32 gradients carry about 1e-6 of rounding each; the issue allows 1e-5.
        assert relative_error(result.dot_products[setting], dots, variant_self, original_self) < 1e-5
        assert relative_error(result.variant_self[setting], variant_self, variant_self, variant_self) < 1e-5
        assert relative_error(result.original_self[setting], original_self, original_self, original_self) < 1e-5


def test_every_distinct_sample_is_computed_once():
    request = small_request()
    seen = []
    result = run_pass(tiny("olmo"), request, progress=lambda done, total, what: seen.append((done, total)))
    distinct = len({o for s in SETTINGS for _, o in request.pairs[s]}) + 2 * 4
    assert result.report.gradients_computed == distinct
    assert seen[-1] == (distinct, distinct)


def test_losses_are_those_of_the_model_itself():
    request = small_request()
    model = tiny("llama")
    losses = run_pass(model, request).losses["original"]
    for s in request.originals:
        if s.id in losses:
            ids, labels = torch.from_numpy(s.input_ids)[None], torch.from_numpy(s.labels)[None]
            assert losses[s.id] == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-6)


def test_projected_similarity_is_near_the_full_cosine():
    request = small_request(projections={SETTINGS[0]: (0.05, 0.5)})
    result = run_pass(tiny("olmo"), request, PassOptions())
    s = SETTINGS[0]
    cosine = result.dot_products[s].sum(1) / np.sqrt(result.variant_self[s].sum(1) * result.original_self[s].sum(1))
    # Standard error of a projected cosine is at most sqrt(2 / d); d is 512 a component, five of them is generous.
    assert np.abs(result.projected[s][0.05] - cosine).max() < 5 * np.sqrt(2 / 512)
    assert set(result.projected) == {s}
    assert result.dimensions[0.5] > result.dimensions[0.05] == 512 * len(result.components)


def test_a_pair_of_an_unknown_sample_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"\(a, b\)"):
        PassRequest([sample(random, "a", 8)], {"x": [sample(random, "a", 8)]}, {"x": [("a", "b")]}, frozenset({"x"}))
