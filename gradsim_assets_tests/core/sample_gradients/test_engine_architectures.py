"""Exact products for every family of causal language models, in every way of holding gradients."""

import numpy as np
import pytest
import torch
import transformers

from gradsim_assets.core.gradients.engine import PassOptions, run_pass
from gradsim_assets_tests.support.engine_cases import SETTINGS, brute_products, relative_error, small_request

SIZES = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}

ARCHITECTURES = {
    "olmo": ("OlmoConfig", {**SIZES, **IDS, "intermediate_size": 48, "tie_word_embeddings": True}),
    "olmo2": ("Olmo2Config", {**SIZES, **IDS, "intermediate_size": 48}),
    "llama": ("LlamaConfig", {**SIZES, **IDS, **GROUPED, "attention_bias": True, "mlp_bias": True}),
    "gpt2": ("GPT2Config", {"vocab_size": 211, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **IDS}),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, **IDS, "intermediate_size": 48}),
    "qwen2": ("Qwen2Config", {**SIZES, **IDS, **GROUPED}),
    "qwen3": ("Qwen3Config", {**SIZES, **IDS, **GROUPED, "head_dim": 8}),
    "mistral": ("MistralConfig", {**SIZES, **IDS, **GROUPED, "sliding_window": 16}),
    # pad_token_id is an id that occurs in the samples: its row of the embedding gets no gradient from the input side.
    "gemma": ("GemmaConfig", {**SIZES, **IDS, **GROUPED, "head_dim": 8, "pad_token_id": 0}),
    "phi": ("PhiConfig", {**SIZES, **IDS, "intermediate_size": 48}),
    "opt": ("OPTConfig", {**SIZES, **IDS, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 3}),
    "bloom": ("BloomConfig", {"vocab_size": 211, "hidden_size": 32, "n_layer": 2, "n_head": 4, **IDS}),
    "falcon": ("FalconConfig", {**SIZES, **IDS, "bias": True}),
    "olmoe": ("OlmoeConfig", {**SIZES, **IDS, "intermediate_size": 48, "num_experts": 16, "num_experts_per_tok": 2}),
    "mixtral": ("MixtralConfig", {**SIZES, **IDS, **GROUPED, "num_local_experts": 8, "num_experts_per_tok": 2}),
}  # fmt: skip


def build(name):
    kind, arguments = ARCHITECTURES[name]
    torch.manual_seed(0)
    # The grouped product of experts has no float64 kernel, which the reference needs.
    config = getattr(transformers, kind)(**arguments, experts_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.02)  # as they are after training, not zero
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_products_equal_brute_force(name):
    request = small_request()
    exact = {setting: brute_products(build(name), request, setting) for setting in SETTINGS}
    for options in (
        PassOptions(form="formed"),
        PassOptions(form="factored", batch_tokens=100, tile=2),
        PassOptions(form="formed", batch_tokens=0, tile=1),
    ):
        result = run_pass(build(name), request, options)
        for setting, (names, (dots, variant_self, original_self)) in exact.items():
            assert result.components == names
            # fp32 gradients of fp32 activations: errors are a few 1e-7 of the gradients' lengths; 1e-5 is the promise.
            assert relative_error(result.dot_products[setting], dots, variant_self, original_self) < 1e-5
            assert relative_error(result.variant_self[setting], variant_self, variant_self, variant_self) < 1e-5
            assert relative_error(result.original_self[setting], original_self, original_self, original_self) < 1e-5
        assert result.report.max_relative_error < 1e-5
        assert result.report.checked_pairs == 3


def test_unused_experts_have_a_gradient_of_zero_and_no_less():
    request = small_request()
    result = run_pass(build("olmoe"), request)
    experts = [number for number, name in enumerate(result.components) if "experts" in name]
    assert experts
    assert np.isfinite(result.dot_products["paraphrased"][:, experts]).all()


def test_frozen_parameters_are_no_components():
    model = build("llama")
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    result = run_pass(model, small_request())
    assert len(result.components) == len(list(model.parameters())) - 2
    assert "model.layers.0.self_attn.q_proj.bias" in result.components
    assert not model.model.embed_tokens.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Odd(torch.nn.Module):
    """A head that scales its logits by a parameter of the whole model's, and a linear layer that is not what it seems."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.temperature = torch.nn.Parameter(torch.tensor(0.7))
        layer = inner.model.layers[0].mlp.down_proj
        layer.__class__ = type(
            "Doubled", (torch.nn.Linear,), {"forward": lambda s, x: torch.nn.functional.linear(x, 2 * s.weight)}
        )

    def get_output_embeddings(self):
        return self.inner.lm_head

    def forward(self, input_ids, use_cache=False):
        output = self.inner(input_ids=input_ids, use_cache=use_cache)
        output.logits = output.logits * self.temperature
        return output


@pytest.mark.parametrize("form", ["formed", "factored"])
def test_what_has_no_closed_form_is_found_out_and_still_exact(form):
    request = small_request()
    result = run_pass(Odd(build("llama")), request, PassOptions(form=form))
    assert any("no closed form" in note for note in result.report.notes)
    for setting in SETTINGS:
        names, (dots, variant_self, original_self) = brute_products(Odd(build("llama")), request, setting)
        assert result.components == names
        assert relative_error(result.dot_products[setting], dots, variant_self, original_self) < 1e-5


def test_bfloat16_weights_keep_float32_products():
    request = small_request()
    result = run_pass(build("llama").bfloat16(), request)
    exact = run_pass(build("llama").bfloat16().float(), request)
    for setting in SETTINGS:
        error = relative_error(
            result.dot_products[setting],
            exact.dot_products[setting],
            exact.variant_self[setting],
            exact.original_self[setting],
        )
        # Activations carry 8 bits: 2^-8 each, a few layers deep.
        assert error < 0.05
    assert result.report.max_relative_error < 0.05
