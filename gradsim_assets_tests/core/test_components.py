"""What the names of components say, of every architecture."""

import pytest

from gradsim_assets.core.components import component_type, depth, family

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
