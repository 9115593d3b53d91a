"""Curvature over the originals: independent of how the work is cut up, resumable, and drawn labels that are the sample's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsim_assets.core.curvature.curvature import compute_curvature
from gradsim_assets.core.curvature.factor_files import Tuning, load, stated
from gradsim_assets.core.curvature.statistics import SecondMoments, gram
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.sample_gradients import padded_batch
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch, drawn_labels, label_draws, labelled_as
from gradsim_assets_tests.support.curvature_cases import explicit_blocks, model_of, request, with_drawn_labels
from gradsim_assets_tests.support.engine_cases import brute_force

ORIGINALS = request().originals

#: Sums in another order round otherwise: some 1e-7 of what is largest each.
ROUNDING = 1e-5


def curvature(model, kind, folder, fisher="sampled", options=None, progress=lambda *done: None):
    said = []
    report = compute_curvature(model, ORIGINALS, kind, fisher, folder, options or PassOptions(), progress, said.append)
    return report, {name: load(path, name) for path in report.files for name in stated(path)}


def second_moment(one):
    """F of a component in the basis of the parameters, applied to nothing: diag(F), which no choice of a basis moves."""
    moments = one.moments.double()
    for side, basis in ((-2, one.left), (-1, one.right)):
        if basis is not None:
            squared = basis.double().square()
            moments = squared @ moments if side == -2 else moments @ squared.mT
    return moments


@pytest.mark.parametrize("name", ["tied", "untied with biases"])
def test_batches_and_groups_change_nothing_beyond_rounding(name, tmp_path):
    whole, found = curvature(model_of(name), "ekfac", tmp_path / "whole", options=PassOptions(batch_tokens=200))
    assert whole.groups == 1
    one_by_one = PassOptions(batch_tokens=0, memory_bytes=40_000)
    cut, other = curvature(model_of(name), "ekfac", tmp_path / "cut", options=one_by_one)
    assert cut.groups > 1 and "groups of components in turn" in cut.plan
    assert found.keys() == other.keys()
    for component, one in found.items():
        assert (one.kind, one.tokens, one.samples) == (
            other[component].kind,
            other[component].tokens,
            other[component].samples,
        )
        mine, theirs = second_moment(one), second_moment(other[component])
        # Of some bases only the span is determined (fewer tokens than dimensions): what they make of F is the same.
        torch.testing.assert_close(mine, theirs, rtol=5e-3, atol=float(mine.max()) * ROUNDING)


def test_labels_are_drawn_by_the_sample_whatever_stands_beside_it():
    model, device = model_of("untied with biases"), torch.device("cpu")
    expected = {one.id: with_drawn_labels(model_of("untied with biases"), one).labels for one in ORIGINALS}
    with torch.no_grad():
        for batches in ([[one] for one in ORIGINALS], [ORIGINALS], [ORIGINALS[::-1]]):
            for batch, padded in zip(batches, PaddedBatch.of(batches, device, drawn=True), strict=True):
                logits = model(padded.input_ids, use_cache=False).logits.flatten(0, 1)[padded.predicting]
                drawn = padded.labels_for(logits).view(len(batch), -1)
                for one, row, labelled in zip(batch, drawn, labelled_as(batch, padded), strict=True):
                    wanted = expected[one.id][1:][one.labels[1:] != -100]
                    assert np.array_equal(row[: len(wanted)].numpy(), wanted)
                    assert labelled.id == one.id and np.array_equal(labelled.labels, expected[one.id])


def test_labels_are_drawn_once_for_all_groups_and_statistics(tmp_path, monkeypatch):
    drawn = []

    def counted(logits, draws):
        drawn.append(len(draws))
        return drawn_labels(logits, draws)

    monkeypatch.setattr(padded_batch, "drawn_labels", counted)
    options = PassOptions(batch_tokens=0, memory_bytes=40_000)
    report, _ = curvature(model_of("tied"), "ekfac", tmp_path, options=options)
    assert report.groups > 1 and report.gradients_computed == 2 * report.groups * len(ORIGINALS)
    assert sorted(drawn) == sorted(int((one.labels[1:] != -100).sum()) for one in ORIGINALS)


def test_labels_follow_the_distribution_of_the_model():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    draws = torch.from_numpy(label_draws("a", 20_000))
    drawn = drawn_labels(shares.log().expand(len(draws), -1), draws).bincount(minlength=5) / len(draws)
    # Five standard errors of a share of 20,000 draws.
    assert (drawn - shares).abs().max() < 5 * (0.25 / len(draws)) ** 0.5 and drawn[4] == 0


def test_sampled_fisher_is_that_of_gradients_with_the_drawn_labels(tmp_path):
    name = "untied with biases"
    _, found = curvature(model_of(name), "ekfac", tmp_path)
    drawn = [with_drawn_labels(model_of(name), one) for one in ORIGINALS]
    assert any(not np.array_equal(a.labels, b.labels) for a, b in zip(drawn, ORIGINALS, strict=True))
    gradients = [brute_force(model_of(name), one) for one in drawn]
    for component, one in found.items():
        exact = torch.stack([own[component] for own in gradients]).square().mean()
        assert float(one.moments.double().mean()) == pytest.approx(
            float(exact), rel=1e-4
        )  # a trace: bases do not move it


def test_a_killed_computation_goes_on_behind_its_last_finished_group(tmp_path):
    options, model = PassOptions(memory_bytes=40_000), model_of("untied with biases")
    whole, found = curvature(model, "ekfac", tmp_path / "whole", options=options)
    seen = []

    def killed(done, total, what):
        seen.append(what)
        if len(seen) > whole.gradients_computed // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curvature(model, "ekfac", tmp_path / "killed", options=options, progress=killed)
    again, other = curvature(model, "ekfac", tmp_path / "killed", options=options)
    assert 1 <= again.groups_restored < again.groups == whole.groups
    assert again.gradients_computed < whole.gradients_computed
    assert all(torch.equal(one.moments, other[name].moments) for name, one in found.items())


def test_another_model_does_not_take_up_what_another_has_left(tmp_path):
    curvature(model_of("tied"), "adam", tmp_path)
    other = model_of("tied")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[3, 5] += 0.01
    assert curvature(other, "adam", tmp_path)[0].groups_restored == 0


def test_layers_that_read_one_input_share_their_basis(tmp_path):
    report, found = curvature(model_of("untied with biases"), "ekfac", tmp_path)
    names = stated(report.files[0])
    attention = [f"model.layers.0.self_attn.{which}_proj.weight" for which in "qkv"]
    assert len({names[one]["right"] for one in attention}) == 1 and len({names[one]["left"] for one in attention}) == 3
    basis = found[attention[0]].right.double()
    torch.testing.assert_close(basis.T @ basis, torch.eye(8, dtype=torch.float64), atol=1e-6, rtol=0)


def test_experts_count_the_samples_that_reach_them(tmp_path):
    _, found = curvature(model_of("experts"), "ekfac", tmp_path, fisher="empirical")
    blocks = explicit_blocks(model_of("experts"), ORIGINALS, 0.0)
    experts = {name: one for name, one in found.items() if one.moments.dim() == 3}
    assert experts and all(one.kind == "gradients" and one.left.shape[0] == 3 for one in experts.values())
    for name, one in experts.items():
        exact = torch.stack([torch.diagonal(block) for block in blocks[name]]).view(one.moments.shape)
        torch.testing.assert_close(second_moment(one), exact, rtol=1e-3, atol=float(exact.max()) * ROUNDING)


def test_a_component_of_nothing_but_rounding_is_damped_by_the_model():
    curved = replace(_diagonal(1e-20), moments=torch.full((4,), 1e-20))
    assert Tuning(damping=0.1).scale("ekfac", curved, 1.0)[0] == pytest.approx((0.1) ** -0.5)
    assert Tuning(damping=0.1).scale("ekfac", _diagonal(1e-6), 1.0)[0] == pytest.approx((1.1e-6) ** -0.5)


def _diagonal(value):
    from gradsim_assets.core.curvature.component_curvature import ComponentCurvature

    return ComponentCurvature("diagonal", torch.full((4,), value))


def test_adam_takes_its_epsilon_from_the_configuration_then_the_optimizer_then_pytorch():
    curved = replace(_diagonal(0.0), epsilon=1e-3)
    assert Tuning(epsilon=1e-2).scale("adam", curved, 1.0)[0] == pytest.approx(1e2)
    assert Tuning().scale("adam", curved, 1.0)[0] == pytest.approx(1e3)
    assert Tuning().scale("adam", _diagonal(0.0), 1.0)[0] == pytest.approx(1e8)


def test_the_product_of_a_wide_matrix_with_itself_is_mirrored():
    rows = torch.randn(40, 530, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gram(rows), rows.T @ rows)


def test_curvature_of_no_originals_is_refused(tmp_path):
    with pytest.raises(InputError, match="gradients of the originals are wanted, and there are none"):
        compute_curvature(model_of("tied"), [], "adam", "sampled", tmp_path, PassOptions(), print, print)


def test_a_batch_that_was_not_finished_counts_nothing():
    model = model_of("tied")
    hooks = GradientHooks(model)
    moments = SecondMoments(hooks, frozenset(range(len(hooks.names))), {}, 2**20)
    hooks.unproven = set()
    batches = PaddedBatch.of([ORIGINALS[:2], ORIGINALS[2:3]], hooks.device)
    with hooks.open():
        moments.begin(batches[0].shape)
        hooks.backward(batches[0], moments)  # and never finished
        moments.begin(batches[1].shape)
        hooks.backward(batches[1], moments)
        moments.finish()
    exact = brute_force(model_of("tied"), ORIGINALS[2])
    for number, name in enumerate(hooks.names):
        torch.testing.assert_close(moments.sums[number], exact[name].square(), rtol=1e-3, atol=1e-9)
