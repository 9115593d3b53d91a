"""Products split over tokens: against the gradient of every token's loss, and against the whole."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, MambaConfig, MixtralConfig

from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.sample_gradients import token_contributions as module
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import plain_gradient, sample_loss
from gradsim_assets.core.sample_gradients.token_contributions import token_contributions
from gradsim_assets_tests.support.engine_cases import CONFIGS, SIZES, sample

KINDS = {
    **CONFIGS,
    "mixtral": lambda: MixtralConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=4),
    "mamba": lambda: MambaConfig(vocab_size=SIZES["vocab_size"], hidden_size=16, num_hidden_layers=2, state_size=4),
}

#: fp32, in which many operations of a forward and of a backward pass sum in another order.
ROUNDING = 1e-5


def drawn(name, length):
    return sample(np.random.default_rng(length), name, length)


def made(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(KINDS[kind]())


def adapted(kind, use_dora):
    """A model with an adapter in it, drawn so that it does something."""
    model = made(kind)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, use_dora=use_dora)
    inject_adapter_in_model(config, model)
    model.peft_config = {"default": config}
    return model


def one_token(whole, place):
    """The sample with the loss on one token alone."""
    labels = np.full_like(whole.labels, IGNORED)
    labels[place] = whole.labels[place]
    return type(whole)(whole.id, whole.input_ids, labels)


MODELS = {
    **{kind: lambda kind=kind: made(kind) for kind in KINDS},
    "lora": lambda: adapted("llama", False),
    "dora": lambda: adapted("llama", True),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_token_has_the_product_of_its_own_gradient_and_all_make_up_the_whole(make):
    model, variant, original = make(), drawn("a", 14), drawn("b", 17)
    parameters = [parameter for _, parameter in trainable_components(model)]
    (_, own), (_, direction) = (plain_gradient(model, one, parameters) for one in (variant, original))
    found = token_contributions(model, variant, direction)
    counted = np.flatnonzero(variant.labels[1:] != IGNORED) + 1
    wanted = np.zeros(variant.length)
    for place in counted:
        _, of_token = plain_gradient(model, one_token(variant, place), parameters)
        wanted[place] = sum(float((a * b).sum()) for a, b in zip(of_token, direction, strict=True)) / len(counted)
    assert np.allclose(found, wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())
    whole = sum(float((a * b).sum()) for a, b in zip(own, direction, strict=True))
    assert found.sum() == pytest.approx(whole, abs=ROUNDING * np.abs(wanted).sum())


def test_a_model_without_forward_derivatives_is_taken_token_by_token(monkeypatch):
    class Blind(torch.autograd.Function):
        """An operation as kernels of other packages are: with a backward pass and no forward derivative."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model, one, other = made("llama"), drawn("a", 12), drawn("b", 15)
    _, direction = plain_gradient(model, other, [parameter for _, parameter in trainable_components(model)])
    wanted = token_contributions(model, one, direction)
    tried = []
    monkeypatch.setattr(
        module, "_token_by_token", lambda *given, inner=module._token_by_token: tried.append(1) or inner(*given)
    )
    model.model.layers[0].register_forward_hook(lambda layer, inputs, output: Blind.apply(output))
    assert np.allclose(token_contributions(model, one, direction), wanted, rtol=0, atol=ROUNDING * np.abs(wanted).max())
    assert tried == [1]


def test_the_model_is_left_as_it_was():
    model, one = made("llama").train(), drawn("a", 12)
    model.lm_head.weight.requires_grad_(False)
    names = [name for name, _ in trainable_components(model)]
    direction = [torch.ones_like(parameter) for _, parameter in trainable_components(model)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, loss = token_contributions(model, one, direction), float(sample_loss(model.eval(), one, "cpu"))
    assert np.array_equal(first, token_contributions(model, one, direction)) and np.isfinite(loss)
    assert [name for name, _ in trainable_components(model)] == names
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
