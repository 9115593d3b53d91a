"""Gradients of originals that wait in the host's memory for later blocks: fewer passes, the same numbers."""

from dataclasses import replace

import numpy as np
import pytest

from gradsim_assets.core.gradients.engine import GradientPass, run_pass
from gradsim_assets.core.sample_gradients.device_profile import CPU
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets_tests.core.curvature.test_preconditioned_products import computed
from gradsim_assets_tests.core.gradients.test_gradient_pass import assert_same, limited
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny

#: A device beside the host, as fast to reach as nothing at all.
APART = replace(CPU, host_bytes_per_second=1e15)

PLENTY = 2**30

REQUEST = {"originals": 8, "variants": 12, "projections": {SETTINGS[0]: (0.05,)}}


def cut_up(model, request, host_bytes=PLENTY, **options):
    """Options of a pass in several blocks, without and with memory on the host."""
    without = limited(model, request, 0.25, **options)
    return without, replace(without, profile=APART, host_bytes=host_bytes)


@pytest.mark.parametrize(("name", "form"), [("llama", "formed"), ("olmo", "factored")])
def test_an_original_is_computed_once_and_fetched_for_other_blocks(name, form):
    request, model = small_request(**REQUEST), tiny(name)
    without, options = cut_up(model, request, form=form)
    again = run_pass(model, request, without)
    assert again.report.blocks > 2 and again.report.gradients_fetched == 0
    work = GradientPass(model, request, options)
    found = work.run()
    assert work.plan.kept and work.plan.passes == work.plan.minimum_passes == found.report.gradients_computed
    assert found.report.gradients_fetched == work.plan.fetches > 0
    assert_same(again, found)


def test_under_preconditioners_a_fetched_gradient_is_the_one_that_was_computed(tmp_path):
    model = tiny("olmo")
    request = small_request(originals=8, variants=12, preconditioned={SETTINGS[1]: ("adam",)})
    stored = {"adam": computed(model, request.originals, "adam", tmp_path, epsilon=1e-3)[0]}
    without, options = cut_up(model, request, preconditioners=stored)
    again, found = (run_pass(model, request, one, preconditioners=stored) for one in (without, options))
    assert found.report.gradients_fetched
    for term, products in again.preconditioned[SETTINGS[1]]["adam"].items():
        np.testing.assert_allclose(found.preconditioned[SETTINGS[1]]["adam"][term], products, rtol=1e-4, atol=1e-9)


def test_what_is_kept_takes_the_bytes_that_were_planned_and_no_more_than_allowed():
    request, model = small_request(**REQUEST), tiny("llama")
    _, options = cut_up(model, request)
    whole = GradientPass(model, request, options)
    whole.run()
    _, options = cut_up(model, request, host_bytes=whole.plan.host_bytes // 2)
    work = GradientPass(model, request, options)
    found = work.run()
    assert 0 < len(work.plan.kept) < len(whole.plan.kept)
    assert found.report.gradients_computed == work.plan.passes > whole.plan.passes
    kept = [tensor for one in work._gradients._kept.values() for tensors in one.tensors for tensor in tensors]
    held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    # The plan fills projections up less than the rows do, and does not count the squares of their lengths.
    assert held == pytest.approx(work.plan.host_bytes, rel=0.05)
    assert work.plan.host_bytes <= options.host_bytes


@pytest.mark.parametrize(
    "changes", [{"host_bytes_per_second": None}, {"host_bytes_per_second": 1.0}], ids=["the device's own", "slow"]
)
def test_nothing_is_kept_where_computing_again_is_faster(changes):
    request, model = small_request(**REQUEST), tiny("llama")
    _, options = cut_up(model, request)
    work = GradientPass(model, request, replace(options, profile=replace(CPU, **changes)))
    assert work.run().report.gradients_fetched == 0 and not work.plan.kept


def test_a_gradient_that_comes_back_wrong_is_found(monkeypatch):
    right = HeldGradients.put_back

    def wrong(self, kept):
        right(self, replace(kept, tensors=[[2 * tensor for tensor in tensors] for tensors in kept.tensors]))

    request, model = small_request(**REQUEST), tiny("olmo")
    _, options = cut_up(model, request, form="formed")
    monkeypatch.setattr(HeldGradients, "put_back", wrong)
    with pytest.raises(ArithmeticError, match="plain autograd"):
        run_pass(model, request, replace(options, check_pairs=1))


def test_a_killed_pass_goes_on_without_what_was_kept(tmp_path):
    request, model = small_request(**REQUEST), tiny("llama")
    without, options = cut_up(model, request)
    options = replace(options, scratch=tmp_path)
    finished = []

    def killed(done, total, what):
        finished.append((done, total))
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pass(model, request, options, killed)
    progress = []
    found = run_pass(model, request, options, lambda done, total, what: progress.append((done, total)))
    assert found.report.blocks_restored and found.report.gradients_fetched
    assert progress[-1] == (found.report.gradients_computed,) * 2
    assert_same(run_pass(model, request, without), found)
