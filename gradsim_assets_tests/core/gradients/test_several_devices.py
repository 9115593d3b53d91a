"""A model whose layers lie on several devices: the same numbers, and nothing that is done on two devices at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OlmoConfig

from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, run_pass
from gradsim_assets.core.models.spreading import device_map, spread_over
from gradsim_assets.core.sample_gradients.device_profile import CPU
from gradsim_assets_tests.core.curvature.test_preconditioned_products import computed
from gradsim_assets_tests.core.gradients.test_gradient_pass import limited
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, too_little
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
    assert all(devices.operations[torch.device(one)] > 1000 for one in ON)
