"""Names of components of every architecture, and their sizes."""

import pytest

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component, sizes_from_config
from gradsim_assets.core.components import component_type, depth, family
from gradsim_assets.core.errors import InputError

NAMES = [
    # olmo, llama, mistral, qwen2, gemma
    ("model.embed_tokens.weight", "embed_tokens", None, "embedding"),
    ("model.layers.3.self_attn.q_proj.weight", "self_attn.q_proj", 3, "attention"),
    ("model.layers.12.mlp.down_proj.weight", "mlp.down_proj", 12, "mlp"),
    ("model.layers.0.input_layernorm.weight", "input_layernorm", 0, "norm"),
    ("model.layers.0.post_attention_layernorm.weight", "post_attention_layernorm", 0, "norm"),
    ("model.norm.weight", "norm", None, "norm"),
    ("lm_head.weight", "lm_head", None, "embedding"),
    ("model.layers.3.self_attn.q_proj.bias", "self_attn.q_proj.bias", 3, "attention"),  # qwen2
    ("model.layers.3.self_attn.q_norm.weight", "self_attn.q_norm", 3, "norm"),  # qwen3, olmo2
    ("model.layers.3.post_feedforward_layernorm.weight", "post_feedforward_layernorm", 3, "norm"),  # olmo2
    # olmoe and mixtral, one tensor per expert and all experts in one
    ("model.layers.3.mlp.experts.17.up_proj.weight", "mlp.experts.up_proj", 3, "mlp"),
    ("model.layers.3.mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj", 3, "mlp"),
    ("model.layers.3.mlp.gate.weight", "mlp.gate", 3, "mlp"),
    ("model.layers.3.block_sparse_moe.experts.5.w1.weight", "block_sparse_moe.experts.w1", 3, "mlp"),
    # gpt2
    ("transformer.wte.weight", "wte", None, "embedding"),
    ("transformer.wpe.weight", "wpe", None, "embedding"),
    ("transformer.h.11.attn.c_attn.weight", "attn.c_attn", 11, "attention"),
    ("transformer.h.11.attn.c_attn.bias", "attn.c_attn.bias", 11, "attention"),
    ("transformer.h.11.ln_1.weight", "ln_1", 11, "norm"),
    ("transformer.h.11.mlp.c_fc.weight", "mlp.c_fc", 11, "mlp"),
    ("transformer.ln_f.bias", "ln_f.bias", None, "norm"),
    # gpt_neox
    ("gpt_neox.embed_in.weight", "embed_in", None, "embedding"),
    ("gpt_neox.layers.5.attention.query_key_value.bias", "attention.query_key_value.bias", 5, "attention"),
    ("gpt_neox.layers.5.mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h", 5, "mlp"),
    ("gpt_neox.final_layer_norm.weight", "final_layer_norm", None, "norm"),
    ("embed_out.weight", "embed_out", None, "embedding"),
    # opt
    ("model.decoder.embed_positions.weight", "embed_positions", None, "embedding"),
    ("model.decoder.layers.2.self_attn.out_proj.weight", "self_attn.out_proj", 2, "attention"),
    ("model.decoder.layers.2.self_attn_layer_norm.bias", "self_attn_layer_norm.bias", 2, "norm"),
    ("model.decoder.layers.2.fc1.weight", "fc1", 2, "mlp"),
    # bloom, falcon
    ("transformer.word_embeddings.weight", "word_embeddings", None, "embedding"),
    ("transformer.word_embeddings_layernorm.weight", "word_embeddings_layernorm", None, "norm"),
    ("transformer.h.7.self_attention.query_key_value.weight", "self_attention.query_key_value", 7, "attention"),
    ("transformer.h.7.ln_attn.weight", "ln_attn", 7, "norm"),
    # phi
    ("model.layers.7.self_attn.dense.bias", "self_attn.dense.bias", 7, "attention"),
    ("model.final_layernorm.bias", "final_layernorm.bias", None, "norm"),
    # names that belong to nobody
    ("scale", "scale", None, "other"),
    ("model.scale", "scale", None, "other"),
    ("encoder.1.2.kernel", "kernel", 1, "other"),
]


@pytest.mark.parametrize(("name", "kind", "block", "group"), NAMES)
def test_name(name, kind, block, group):
    assert component_type(name) == kind
    assert depth(name) == block
    assert family(component_type(name)) == group


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
ARCHITECTURES = [
    *("olmo", "olmo2", "llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "mistral"),
    *("gemma", "phi", "opt", "bloom", "falcon", "olmoe", "mixtral"),
]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture(model_type):
    """On the names that transformers itself gives: every block has a depth, every type one family, no two one place."""
    sizes = sizes_from_config({"model_type": model_type, **SMALL, "intermediate_size": 48, "pad_token_id": 0})
    table = parameters_per_component(sizes)
    assert table["parameters"].sum() == sum(sizes.values())
    assert table["share"].sum() == pytest.approx(1, abs=1e-12)
    blocks = [d for d in table["depth"] if d is not None]
    assert set(blocks) == {0, 1}
    assert blocks.count(0) == blocks.count(1)
    assert not table.select("component_type", "depth").is_duplicated().any()
    families = {family(kind) for kind in table["component_type"]}
    assert {"attention", "mlp", "embedding"} <= families
    assert "other" not in families


def test_tied_weights_count_once():
    sizes = sizes_from_config({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64})
    assert "transformer.wte.weight" in sizes
    assert "lm_head.weight" not in sizes


def test_config_of_the_papers_model():
    """A whole config.json as the hub has it; nothing of the 1.18 B parameters is allocated."""
    config = {
        "_name_or_path": "somewhere",
        "architectures": ["OlmoForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 2048,
        "model_type": "olmo",
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "pad_token_id": 1,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "transformers_version": "4.40.2",
        "use_cache": True,
        "vocab_size": 50304,
    }
    table = parameters_per_component(sizes_from_config(config))
    assert len(table) == 113
    assert table["parameters"].sum() == 1_176_764_416
    assert table["component"][0] == "model.embed_tokens.weight"


def test_unknown_sizes_are_null():
    table = parameters_per_component({"a": None, "b": 3})
    assert table["parameters"].to_list() == [None, 3]
    assert table["share"].to_list() == [None, None]


@pytest.mark.parametrize("config", [{}, {"model_type": "no_such_model"}])
def test_unusable_config(config):
    with pytest.raises(InputError, match="config"):
        sizes_from_config(config)
