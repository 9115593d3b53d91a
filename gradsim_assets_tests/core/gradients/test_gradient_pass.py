"""The pass as a whole: how it is cut up changes nothing, it survives being killed, and it checks itself."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, run_pass
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.defs.gradients.pass_tables import holds_nothing
from gradsim_assets_tests.support.engine_cases import SETTINGS, relative_error, sample, small_request, tiny

#: Matrix products of other shapes sum in another order: some 1e-7 of the gradients' lengths each.
ROUNDING = 5e-6


def limited(model, request, share, preconditioners=None, **options):
    """Options under which only `share` of the variants can be held at once."""
    work = GradientPass(model, request, PassOptions(tile=1, batch_tokens=0, check_pairs=0, **options), preconditioners)
    work.run()
    memory = work.plan.working_bytes + share * work.plan.held_bytes
    return PassOptions(tile=1, batch_tokens=0, memory_bytes=int(memory), **options)


def assert_same(one, other):
    for setting, dots in one.dot_products.items():
        selves = one.variant_self[setting], one.original_self[setting]
        assert relative_error(other.dot_products[setting], dots, *selves) < ROUNDING
        assert relative_error(other.variant_self[setting], selves[0], selves[0], selves[0]) < ROUNDING
        assert relative_error(other.original_self[setting], selves[1], selves[1], selves[1]) < ROUNDING
    for setting, by_proportion in one.projected.items():
        for proportion, values in by_proportion.items():
            np.testing.assert_allclose(other.projected[setting][proportion], values, atol=ROUNDING)


REQUEST = {"originals": 8, "variants": 7, "projections": {SETTINGS[0]: (0.05,)}}


@pytest.mark.parametrize("form", ["formed", "factored"])
def test_blocks_batches_and_tiles_change_nothing_beyond_rounding(form):
    request, model = small_request(**REQUEST), tiny("llama")
    whole = run_pass(model, request, PassOptions(form=form, tile=8, batch_tokens=200))
    assert whole.report.blocks == 1
    cut = run_pass(model, request, limited(model, request, 0.3, form=form))
    assert cut.report.blocks > 2
    assert cut.report.gradients_computed > cut.report.samples == whole.report.gradients_computed
    assert_same(whole, cut)


def test_order_and_company_change_nothing_beyond_rounding():
    request, model = small_request(**REQUEST), tiny("llama")
    order = np.random.default_rng(1).permutation(len(request.pairs[SETTINGS[0]]))
    turned = replace(
        request,
        originals=request.originals[::-1],
        variants={s: v[::-1] for s, v in request.variants.items()},
        pairs={s: [pairs[i] for i in order] for s, pairs in request.pairs.items()},
    )
    one, other = run_pass(model, request), run_pass(model, turned)
    for setting in SETTINGS:
        error = relative_error(
            other.dot_products[setting],
            one.dot_products[setting][order],
            one.variant_self[setting][order],
            one.original_self[setting][order],
        )
        assert error < ROUNDING
    single = replace(
        request, pairs={SETTINGS[0]: request.pairs[SETTINGS[0]][4:5]}, products=frozenset(SETTINGS[:1]), projections={}
    )
    alone = run_pass(model, single).dot_products[SETTINGS[0]]
    selves = one.variant_self[SETTINGS[0]][4:5], one.original_self[SETTINGS[0]][4:5]
    assert relative_error(alone, one.dot_products[SETTINGS[0]][4:5], *selves) < ROUNDING


def test_the_same_pass_gives_the_same_numbers_bit_for_bit():
    request = small_request(**REQUEST)
    one, other = run_pass(tiny("olmo"), request), run_pass(tiny("olmo"), request)
    for setting in SETTINGS:
        assert np.array_equal(one.dot_products[setting], other.dot_products[setting])


def test_a_killed_pass_goes_on_where_it_stopped_with_the_same_numbers(tmp_path):
    request, model = small_request(**REQUEST), tiny("olmo")
    options = limited(model, request, 0.3)
    whole = run_pass(model, request, options)
    assert whole.report.blocks >= 3
    stored = replace(options, scratch=tmp_path)

    def killed(done, total, what):
        if done > whole.report.gradients_computed // 2:  # in the middle of a block
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pass(model, request, stored, killed)
    # More memory by now would make another plan; the pass keeps to the one that it began with.
    again = run_pass(model, request, replace(stored, memory_bytes=None))
    assert again.report.blocks_restored >= 1
    assert again.report.gradients_computed < whole.report.gradients_computed
    for setting in SETTINGS:
        assert np.array_equal(again.dot_products[setting], whole.dot_products[setting])
        assert np.array_equal(again.original_self[setting], whole.original_self[setting])
    assert np.array_equal(again.projected[SETTINGS[0]][0.05], whole.projected[SETTINGS[0]][0.05])
    assert again.losses == whole.losses


def test_another_model_does_not_take_up_what_is_left_of_a_pass(tmp_path):
    request = small_request()
    options = PassOptions(scratch=tmp_path)
    run_pass(tiny("olmo"), request, options)
    other = tiny("olmo")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 5] += 0.01
    assert run_pass(other, request, options).report.blocks_restored == 0


class Scarce(torch.nn.Module):
    """A model that runs out of memory as a device would when a batch is too large."""

    def __init__(self, inner, tokens):
        super().__init__()
        self.inner, self.config, self.tokens = inner, inner.config, tokens

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, use_cache=False):
        if input_ids.numel() > self.tokens:
            raise torch.OutOfMemoryError("Tried to allocate more than there is")
        return self.inner(input_ids=input_ids, use_cache=use_cache)


def test_running_out_of_memory_halves_the_batch_and_goes_on():
    request, model = small_request(**REQUEST), tiny("llama")
    found = run_pass(Scarce(model, 90), request, PassOptions(batch_tokens=400, tile=4))
    assert any("halved" in note for note in found.report.notes)
    assert_same(run_pass(Scarce(model, 10_000), request), found)


def test_what_memory_sufficed_for_is_remembered_when_a_pass_goes_on(tmp_path):
    request, model = small_request(**REQUEST), Scarce(tiny("llama"), 90)
    options = PassOptions(batch_tokens=400, tile=4, scratch=tmp_path)
    said = []

    def killed(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pass(model, request, options, killed, said.append)
    halved = [line for line in said if "halved" in line]
    assert halved
    again, whole = run_pass(model, request, options), run_pass(model, request, replace(options, scratch=None))
    assert [*halved, *again.report.notes] == whole.report.notes  # nothing is halved twice
    for setting in SETTINGS:
        assert np.array_equal(again.dot_products[setting], whole.dot_products[setting])


def test_running_out_of_memory_with_one_sample_and_component_is_an_error_that_says_so():
    model = tiny("llama")
    for parameter in [*model.parameters()][3:]:  # in turns of fewer and fewer components: three are enough
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match=r"weight alone, of one pair of samples, do not fit beside the model"):
        run_pass(Scarce(model, 33), small_request(originals=3, variants=1), PassOptions(batch_tokens=400))


def test_too_little_memory_is_refused_before_anything_is_computed():
    with pytest.raises(InputError, match="raise the memory limit"):
        run_pass(tiny("llama"), small_request(), PassOptions(memory_bytes=100_000))


def test_wrong_products_do_not_pass(monkeypatch):
    right = HeldGradients.products
    monkeypatch.setattr(HeldGradients, "products", lambda *a: right(*a) * 1.001)
    with pytest.raises(ArithmeticError, match="plain autograd"):
        run_pass(tiny("olmo"), small_request())


def test_exhaustive_retrieval_compares_every_variant_with_every_original():
    random = np.random.default_rng(0)
    originals = [sample(random, f"lima_{i}", int(random.integers(6, 30))) for i in range(20)]
    variants = originals[:6]
    pairs = [(v.id, o.id) for v in variants for o in originals]
    request = PassRequest(originals, {"all": variants}, {"all": pairs}, frozenset({"all"}))
    result = run_pass(tiny("olmo"), request, PassOptions(tile=4, check_pairs=2))
    assert result.report.gradients_computed == 26
    dots, own = result.dot_products["all"], result.variant_self["all"]
    assert np.isfinite(dots).all()
    same = [row for row, (variant, original) in enumerate(pairs) if variant == original]
    # A sample's product with itself is its self product.
    assert relative_error(dots[same], own[same], own[same], result.original_self["all"][same]) < ROUNDING


def test_results_in_files_are_those_in_memory_and_a_finished_pass_is_only_read(tmp_path):
    request, model = small_request(**REQUEST), tiny("llama")
    inside, stored = run_pass(model, request), run_pass(model, request, PassOptions(scratch=tmp_path))
    again = run_pass(model, request, PassOptions(scratch=tmp_path))
    assert again.report.gradients_computed == 0
    for setting in SETTINGS:
        assert isinstance(stored.dot_products[setting], np.memmap)
        for term in ("dot_products", "variant_self", "original_self"):
            assert np.array_equal(getattr(stored, term)[setting], getattr(inside, term)[setting])
            assert np.array_equal(getattr(again, term)[setting], getattr(inside, term)[setting])


def test_a_disk_without_room_for_the_results_is_refused_in_words(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for \d+\.\d\d GiB of results \(No space left on device\)"):
        run_pass(tiny("olmo"), small_request(), PassOptions(scratch=tmp_path))


def test_projections_alone_hold_no_products():
    request = small_request(projections={SETTINGS[0]: (0.05,)}, products=frozenset())
    result = run_pass(tiny("olmo"), request)
    assert result.dot_products == {}
    both = run_pass(tiny("olmo"), small_request(projections={SETTINGS[0]: (0.05,)}))
    np.testing.assert_allclose(result.projected[SETTINGS[0]][0.05], both.projected[SETTINGS[0]][0.05], atol=ROUNDING)


@pytest.mark.parametrize("products", [frozenset(), frozenset(SETTINGS)], ids=["alone", "beside products"])
def test_projections_of_no_size_are_none_and_cost_nothing(products):
    request = replace(small_request(), products=products, projections=dict.fromkeys(SETTINGS, ()))
    result = run_pass(tiny("llama"), request)
    assert all(holds_nothing("projected_similarity", result, setting) for setting in SETTINGS)
    assert not any(holds_nothing("dot_products", result, setting) for setting in SETTINGS)
    assert (result.report.gradients_computed > 0) is bool(products)


def test_repeated_pairs_get_a_row_each():
    request = small_request()
    twice = replace(request, pairs={s: [*p, p[0]] for s, p in request.pairs.items()})
    result = run_pass(tiny("olmo"), twice)
    for dots in result.dot_products.values():
        assert np.array_equal(dots[0], dots[-1])


def test_peak_memory_and_time_are_reported():
    report = run_pass(tiny("olmo"), small_request()).report
    assert report.seconds > 0
    assert report.peak_memory_bytes > 0
    assert "backward passes" in report.plan


def live_tensors():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize(("name", "beyond"), [("olmo", None), ("gpt2", None), ("olmo", 0)])
def test_no_graph_outlives_its_pass(name, beyond):
    # A graph that keeps its own output, by a hook on what is saved, is freed by nobody and keeps weights alive with it.
    model, request = tiny(name), small_request()
    options = PassOptions(checkpoint_beyond=beyond)
    run_pass(model, request, options)  # makes what is kept on purpose
    before = live_tensors()
    run_pass(model, request, options)
    assert live_tensors() == before
