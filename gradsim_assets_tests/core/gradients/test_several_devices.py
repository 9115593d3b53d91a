"""A model whose layers lie on several devices: the same numbers, and nothing that is done on two devices at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OlmoConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import (
    GradientPass,
    PassOptions,
    plan_pass,
    plan_turns,
    run_pass,
    shape_of,
    shape_of_config,
)
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.plan import TooLittleMemoryError
from gradsim_assets.core.index.sketching import sketch
from gradsim_assets.core.memory import allowed_of
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.spreading import spread_over
from gradsim_assets.core.sample_gradients.device_profile import CPU
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.core.sample_gradients.layout import Room
from gradsim_assets.core.sample_gradients.padded_batch import batch_shape
from gradsim_assets.core.tracing.held_originals import HeldOriginals
from gradsim_assets.resources.compute import Compute
from gradsim_assets_tests.core.curvature.test_preconditioned_products import computed
from gradsim_assets_tests.core.gradients.test_gradient_pass import assert_same, limited
from gradsim_assets_tests.core.gradients.test_plan import lima_graph
from gradsim_assets_tests.support.engine_cases import SETTINGS, llama3_70b, small_request, too_little
from gradsim_assets_tests.support.simulated_devices import MixedDevicesError, simulated_devices

#: Products of projections are summed up in pieces of fp32, which end where a device's components do.
ROUNDING = 1e-6

SIZES = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, attention_bias=True),
    "tied olmo": lambda: OlmoConfig(**SIZES, intermediate_size=48, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(vocab_size=211, n_embd=32, n_layer=4, n_head=4, n_positions=64),
    "experts": lambda: MixtralConfig(**SIZES, intermediate_size=16, num_key_value_heads=2, num_local_experts=3),
}

ON = ["cpu:0", "cpu:1", "cpu:2"]


def model_of(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name](), experts_implementation="eager").eval()


def spread(name, devices=ON):
    model = model_of(name)
    spread_over(name, model, devices)
    return model


def assert_same_bytes(one, other):
    for setting in SETTINGS:
        for term in ("dot_products", "variant_self", "original_self"):
            assert np.array_equal(getattr(one, term)[setting], getattr(other, term)[setting])
        for proportion, values in one.projected_products.get(setting, {}).items():
            lengths = np.sqrt(values[:, 1] * values[:, 2])[:, None]
            assert (np.abs(other.projected_products[setting][proportion] - values) / lengths).max() < ROUNDING
        for name, terms in one.preconditioned.get(setting, {}).items():
            for term, values in terms.items():
                assert np.array_equal(other.preconditioned[setting][name][term], values)
    assert one.losses == other.losses


@pytest.mark.parametrize("form", ["formed", "factored"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_pass_over_three_devices_gives_the_same_bytes(name, form):
    request = small_request(originals=6, variants=3, projections={SETTINGS[0]: (0.05,)})
    options = PassOptions(form=form, memory_bytes=2**30)
    whole = run_pass(model_of(name), request, options)
    with simulated_devices() as devices:
        found = run_pass(spread(name), request, replace(options, device="cpu:0"))
    assert_same_bytes(whole, found)
    assert found.report.checks.pairs and not found.report.notes
    assert Compute.metadata(found)["devices"] == 3 and "devices" not in Compute.metadata(whole)
    assert all(devices.operations[torch.device(one)] > 1000 for one in ON)


@pytest.mark.parametrize("form", ["formed", "factored"])
def test_activations_computed_again_and_originals_on_the_host_give_the_same_numbers(form):
    request = small_request(originals=8, variants=12, projections={SETTINGS[0]: (0.05,)})
    options = limited(model_of("llama"), request, 0.4, form=form)
    options = replace(options, checkpoint_beyond=0, profile=replace(CPU, host_bytes_per_second=1e15), host_bytes=2**30)
    with simulated_devices():
        over = GradientPass(spread("llama"), request, replace(options, device="cpu:0"))
        found = over.run()
    # What is held by three devices takes less of each, so that one alone would cut the work up otherwise.
    whole = GradientPass(model_of("llama"), request, options)
    whole.run()
    assert over.plan.devices == 3 and len(over.plan.blocks) < len(whole.plan.blocks)
    assert over.plan.checkpoint_beyond == 0 and found.report.devices == 3
    again = run_pass(model_of("llama"), request, replace(options, memory_bytes=2**30))
    assert_same(again, found)


def test_gradients_that_come_back_from_the_host_come_to_their_devices():
    request = small_request(originals=8, variants=12, projections={SETTINGS[0]: (0.05,)})
    with simulated_devices():
        model = spread("tied olmo")
        options = limited(model, request, 0.25, device="cpu:0")
        kept = replace(options, profile=replace(CPU, host_bytes_per_second=1e15), host_bytes=2**30)
        again, fetched = run_pass(model, request, options), run_pass(model, request, kept)
    assert fetched.report.gradients_fetched and fetched.report.checks.pairs
    assert fetched.report.gradients_computed == fetched.report.samples < again.report.gradients_computed
    assert_same(again, fetched)


@pytest.mark.parametrize("form", ["formed", "factored"])
def test_products_under_preconditioners_are_those_of_one_device(form, tmp_path):
    model = model_of("llama")
    request = small_request(preconditioned={SETTINGS[0]: ("ekfac",)})
    stored = {"ekfac": computed(model, request.originals, "ekfac", tmp_path, damping=0.1)[0]}
    options = PassOptions(form=form, memory_bytes=2**30)
    whole = run_pass(model, request, options, preconditioners=stored)
    with simulated_devices():
        found = run_pass(spread("llama"), request, replace(options, device="cpu:0"), preconditioners=stored)
    assert_same_bytes(whole, found)
    assert found.report.checks.preconditioned_pairs


def test_components_in_turn_are_those_of_one_device():
    request = small_request()
    with simulated_devices():
        model = spread("llama")
        little = too_little(model, request, PassOptions(device="cpu:0"))
        found = run_pass(model, request, PassOptions(device="cpu:0", memory_bytes=little))
    whole = run_pass(model_of("llama"), request, PassOptions(memory_bytes=2**30))
    assert "done in" in found.report.notes[0] and found.report.devices == 3
    assert_same(whole, found)


def test_what_autograd_takes_itself_comes_from_every_device():
    request = small_request()
    with simulated_devices():
        work = GradientPass(spread("llama"), request, PassOptions(device="cpu:0", memory_bytes=2**30))
        norms = {n for n, name in enumerate(work.names) if "layernorm" in name}
        assert len({work._hooks.devices[n] for n in norms}) == 3
        work._hooks.demote(norms)
        found = work.run()
    assert_same(run_pass(model_of("llama"), request, PassOptions(memory_bytes=2**30)), found)


def test_curvature_sketches_and_held_originals_are_those_of_one_device(tmp_path):
    originals = small_request().originals

    def made(model, folder, **options):
        how = PassOptions(memory_bytes=2**30, **options)
        curvature = computed(model, originals, "ekfac", folder, options=how, damping=0.1)[0]
        sketches = sketch(model, originals, 64, None, how, lambda *done: None, lambda said: None)
        held = HeldOriginals.of(model, originals, how)
        return curvature, sketches.sketches, held.terms(held.gradient(originals[0].id), curvature)

    whole = made(model_of("tied olmo"), tmp_path / "one")
    with simulated_devices():
        over = made(spread("tied olmo"), tmp_path / "three", device="cpu:0")
    np.testing.assert_allclose(over[1], whole[1], rtol=1e-4, atol=1e-5 * np.abs(whole[1]).max())
    for one, other in zip(whole[2], over[2], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6 * np.abs(one).max())


def test_answers_are_those_of_one_device():
    prompts = [np.arange(5, 12), np.arange(40, 60)]

    def answers(model):
        return [
            model.generate(torch.from_numpy(one)[None].to("cpu"), max_new_tokens=8, do_sample=False).tolist()
            for one in prompts
        ]

    whole = answers(model_of("llama"))
    with simulated_devices():
        model = spread("llama")
        found = [
            model.generate(torch.from_numpy(one)[None].to("cpu:0"), max_new_tokens=8, do_sample=False).tolist()
            for one in prompts
        ]
    assert found == whole


def test_hooks_of_accelerate_change_no_byte_on_one_device():
    request = small_request(projections={SETTINGS[0]: (0.05,)})
    hooked = spread("tied olmo", ["cpu", "cpu"])
    assert hooked.hf_device_map and hasattr(hooked.model.layers[0].mlp, "_hf_hook")
    options = PassOptions(memory_bytes=2**30)
    one, other = run_pass(model_of("tied olmo"), request, options), run_pass(hooked, request, options)
    assert_same_bytes(one, other)
    assert one.report.plan == other.report.plan
    assert all(
        np.array_equal(a, b)
        for a, b in zip(*(r.projected_products[SETTINGS[0]].values() for r in (one, other)), strict=True)
    )


def test_tokens_are_not_attributed_over_several_devices(tmp_path):
    compute = Compute(home=str(tmp_path), projections=[])
    with (
        simulated_devices(),
        pytest.raises(InputError, match=r"spread over 3; set compute.devices = 1 for token_attribution"),
    ):
        loaded = LoadedModel(spread("llama"), None, None, "cpu:0")
        compute.token_attribution(loaded, small_request(), SETTINGS[0], [], tmp_path, lambda *done: None, print, "")


def test_an_operation_on_two_devices_is_noticed():
    with simulated_devices():
        one, other = torch.ones(2, device="cpu:0", requires_grad=True), torch.ones(2, device="cpu:1")
        with pytest.raises(MixedDevicesError, match="mul"):
            one * other
        moved = one.to("cpu:1")
        (moved * other).sum().backward()
        assert (one.device, moved.device, one.grad.device) == tuple(map(torch.device, ("cpu:0", "cpu:1", "cpu:0")))
        with pytest.raises(MixedDevicesError, match="numpy"):
            other.numpy()
        assert other.cpu().numpy().tolist() == [1, 1]


def test_what_is_planned_to_be_held_is_held_on_the_fullest_device():
    request = small_request(originals=6, variants=5, projections={SETTINGS[0]: (0.05,)})
    with simulated_devices() as devices:
        work = GradientPass(spread("llama"), request, PassOptions(device="cpu:0", form="factored", memory_bytes=2**30))
        work.run()
        layout, shape = work._gradients._layout(work.plan), work.shape
        batches = [[sample] for sample in request.originals]
        held = HeldGradients(layout, Room.of([batch_shape(batch) for batch in batches], CPU.row_multiple))
        sizes = dict.fromkeys(map(torch.device, ON), 0)
        for part in held._parts:
            store = part.factored._store
            tensors = [part.formed._rows, *store.rights, *(left for own in store.lefts for left in own)]
            for tensor in [*tensors, *(projected.rows for projected in part.projected.values())]:
                sizes[devices.of(tensor)] += tensor.nbytes
    memory = MemoryModel.of(shape, work.graph, work.plan.factored, CPU)
    lengths = [[(sample.length, batch_shape([sample]).labelled_tokens)] for sample in request.originals]
    # Rows of zeros and what fills projections up are not counted.
    assert memory.room_bytes(lengths) == pytest.approx(max(sizes.values()), rel=0.1)
    assert memory.stored_bytes(lengths[0][0]) > 1.5 * memory.held_bytes(lengths[0][0])
    assert min(sizes.values()) > 0.3 * max(sizes.values())


@pytest.fixture(scope="module")
def seventy_billion():
    return shape_of_config(llama3_70b(), torch.bfloat16)


def beside(shape):
    """Bytes of an H100 that a run takes beside the weights on the device that has most of them."""
    return allowed_of(int(79.1 * 2**30) - shape.most_model_bytes, "cuda", "most")


def test_seventy_billion_parameters_over_eight_h100_fit_with_the_longest_sample(seventy_billion):
    shape, graph = seventy_billion.spread(8), lima_graph()
    assert shape.device_count == 8 and graph.longest == 4147
    assert shape.most_model_bytes < 1.1 * seventy_billion.model_bytes / 8
    plan = plan_pass(shape, graph, beside(shape), PassOptions(device="cuda"))
    assert plan.memory_bytes <= beside(shape) and plan.passes <= 1.6 * plan.minimum_passes
    assert "GiB beside the model on the fullest of 8 devices" in plan.describe()


def test_over_four_they_fit_in_turns_alone_and_over_one_not_at_all(seventy_billion):
    shape, options = seventy_billion.spread(4), PassOptions(device="cuda")
    with pytest.raises(TooLittleMemoryError, match=r"at least [\d.]+ GiB beside the model on the fullest of 4 devices"):
        plan_pass(shape, lima_graph(), beside(shape), options)
    turns = plan_turns(shape, lima_graph(), beside(shape), options)
    assert len(turns) > 1 and all(turn.plan.memory_bytes <= beside(shape) for turn in turns)
    assert beside(seventy_billion) < 0  # which `gradsim plan` says in a sentence, see its tests


def test_the_parts_of_a_spread_model_are_all_of_it(seventy_billion):
    parts = seventy_billion.spread(8).on_each()
    assert sorted(number for _, numbers in parts for number in numbers) == list(range(len(seventy_billion.components)))
    assert [part.vocabulary for part, _ in parts] == [0] * 7 + [seventy_billion.vocabulary]
    whole = seventy_billion.activations.bytes(4147, 4147)
    assert whole <= sum(part.activations.bytes(4147, 4147) for part, _ in parts) < 1.02 * whole
    between = seventy_billion.checkpointed.between.bytes(4147, 4147)
    assert between <= sum(part.checkpointed.between.bytes(4147, 4147) for part, _ in parts) < 1.3 * between
    assert seventy_billion.spread(1) == seventy_billion and seventy_billion.on_each()[0][0] is seventy_billion


def head_of(hooks):
    """The name of the head's weight: of a tied one that of the embedding."""
    return next(name for name, own in zip(hooks.names, hooks.parameters, strict=True) if own is hooks.head.weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_plan_without_weights_puts_layers_where_a_run_does(name):
    shape = shape_of(lambda: model_of(name)).spread(3)
    with simulated_devices():
        hooks = GradientHooks(spread(name), "cpu:0")
        there = [ON.index(str(device)) for device in hooks.devices]
        measured = measure(hooks)
    assert len(set(there)) == 3
    assert [shape.devices[one.piece] for one in shape.components] == there
    assert [measured.devices[one.piece] for one in measured.components] == there
    assert measured.devices[measured.head] == shape.devices[shape.head] == there[hooks.names.index(head_of(hooks))]
