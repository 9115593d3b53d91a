"""Activations that are computed again give the same gradients, and where they do not, they are kept."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MixtralConfig

from gradsim_assets.core.gradients.engine import PassOptions, run_pass
from gradsim_assets.core.sample_gradients.activation_checkpointing import ActivationCheckpointing
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets_tests.support.engine_cases import CONFIGS, SETTINGS, SIZES, sample, small_request

KINDS = {
    **CONFIGS,
    "gemma2": lambda: Gemma2Config(
        **SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8
    ),
    "mixtral": lambda: MixtralConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=4),
}


def made(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(KINDS[kind]()).eval()


def equal(one, other):
    for setting in SETTINGS:
        assert np.array_equal(one.dot_products[setting], other.dot_products[setting])
        assert np.array_equal(one.original_self[setting], other.original_self[setting])
    assert one.losses == other.losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_gives_the_same_numbers_bit_for_bit(kind):
    # The same operations on the same numbers, only once more.
    request = small_request(projections={SETTINGS[0]: (0.05,)})
    kept, again = (
        run_pass(made(kind), request, PassOptions(checkpoint_beyond=beyond, batch_tokens=0)) for beyond in (None, 12)
    )
    equal(kept, again)
    assert again.report.max_relative_error < 1e-5
    assert "computed again" in again.report.plan
    assert not again.report.notes


@pytest.mark.parametrize("frozen", ["embed_tokens", "layers.0"])
def test_what_is_frozen_does_not_hide_what_is_trained_behind_it(frozen):
    found = []
    for beyond in (None, 0):
        model = made("llama")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
        found.append(run_pass(model, small_request(), PassOptions(checkpoint_beyond=beyond, batch_tokens=0)))
    equal(*found)
    assert (found[1].variant_self[SETTINGS[0]] > 0).any(0).sum() > 10


def test_a_block_that_counts_its_calls_is_not_computed_again():
    model = made("llama")
    block = model.model.layers[1]
    inside = block.mlp.forward

    def drifting(x):
        block.calls = getattr(block, "calls", 0) + 1
        return inside(x) * (1 if block.calls % 2 else 2)

    block.mlp.forward = drifting
    block.register_buffer("seen", torch.zeros(1))  # whoever owns a buffer is put back before every sample
    with_note = run_pass(model, small_request(), PassOptions(checkpoint_beyond=0, batch_tokens=0))
    assert [note for note in with_note.report.notes if "all activations are kept" in note]
    del block.mlp.forward
    equal(with_note, run_pass(made("llama"), small_request(), PassOptions(checkpoint_beyond=None, batch_tokens=0)))


def test_plain_autograd_takes_a_shared_weight_whole():
    model = made("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    plain = PlainAutograd(model, list(model.parameters()), "cpu")
    one, numbers = sample(np.random.default_rng(0), "a", 30), range(len(plain.parameters))
    kept = plain.gradient(one, numbers)
    with plain.checkpointing.always():
        assert all(map(torch.equal, kept, plain.gradient(one, numbers)))


def test_blocks_are_the_outermost_layers_and_are_left_as_they_were():
    model = made("mixtral")
    checkpointing = ActivationCheckpointing(model)
    assert checkpointing.blocks == list(model.model.layers)
    with checkpointing.always(), checkpointing.of_hooks(5):
        assert "forward" in vars(model.model.layers[0])
    assert "forward" not in vars(model.model.layers[0])
    assert checkpointing.beyond is None
