"""Tiny random models of every causal language model that the installed transformers knows.

A configuration is made from the class's own defaults, with everything that costs memory or time made small: widths,
layers, experts, vocabulary, context. One layer of each kind stays, since it is the unusual one (a sliding window among
full attention, an attention layer among recurrent ones, experts behind a dense layer) that goes wrong.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 160
CONTEXT = 64
#: Tokens that a sliding window holds: a quarter of the context, so that ordinary samples leave it.
WINDOW = 16
#: Standard deviation of weights: about 1 / sqrt(hidden size), so that activations keep their size from layer to layer.
_WIDTH = 0.2

#: Largest values of configuration fields, by names that mean the same in (nearly) every configuration.
_LARGEST: dict[str, int] = {
    name: largest
    for largest, names in {
        VOCABULARY: "vocab_size n_vocab decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size audio_vocab_size",
        CONTEXT: "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions "
        "original_max_position_embeddings",
        WINDOW: "sliding_window local_attention attention_window_size window_size attention_chunk_size",
        32: "hidden_size n_embd d_model emb_dim embedding_dim embedding_size dim lru_width word_embed_proj_dim "
        "input_embedding_size output_embedding_size backbone_hidden_size",
        48: "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim dim_ff dff d_inner ffn_hidden_size "
        "feed_forward_size intermediate_size_mlp dense_intermediate_size",
        24: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size shared_intermediate_size "
        "moe_shared_expert_intermediate_size",
        8: "patch_size audio_embed_dim hidden_size_per_layer_input depthwise_separable_out_channel ext_pw_out_channel "
        "nemo_conv_channels output_channels head_dim global_head_dim swa_head_dim dim_head d_head rotary_dim "
        "state_size mamba_d_state ssm_state_size qk_nope_head_dim qk_rope_head_dim v_head_dim qk_head_dim kv_lora_rank q_lora_rank index_topk index_head_dim",
        2: "num_blocks num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers "
        "num_encoder_layers num_key_value_heads num_kv_heads kv_n_heads num_experts_per_tok moe_topk moe_top_k "
        "top_k_experts moe_k",
        4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads num_experts n_routed_experts num_local_experts "
        "moe_num_experts",
    }.items()
    for name in names.split()
}


#: Model types of which none can be built, and why.
NOT_BUILT = {
    "gemma3n": "its vision part needs the package timm (gemma3n_text is built)",
    "musicgen": "transformers maps its configuration to a class that takes another one (its decoder's)",
    "musicgen_melody": "transformers maps its configuration to a class that takes another one (its decoder's)",
}


_HALF = CONTEXT // 2
_ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": _HALF}

#: Configurations that make another model of a model type, by a name of their own.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # Frequencies that depend on the longest sequence of a batch, or on the longest that was ever seen.
    "phi3 longrope": (
        "phi3",
        {
            "original_max_position_embeddings": _HALF,
            "rope_parameters": {
                **_ROPE,
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0, 4.0, 8.0, 16.0],
            },
        },
    ),
    "llama dynamic": (
        "llama",
        {
            "max_position_embeddings": _HALF,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0},
        },
    ),
    "llama yarn": ("llama", {"rope_parameters": {**_ROPE, "rope_type": "yarn", "factor": 2.0}}),
    "falcon alibi": ("falcon", {"alibi": True}),
    "qwen2 sliding": ("qwen2", {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}),
}


def tiny_causal_models() -> Iterator[tuple[str, Callable[[], torch.nn.Module]]]:
    """Every model type (and variant) with a function that builds a tiny model of it: fp32, the same at every call.

    Left out are those of `NOT_BUILT`.
    """
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if model_type not in NOT_BUILT:
            yield model_type, partial(tiny_model, model_type)
    for name, (model_type, changes) in VARIANTS.items():
        yield name, partial(tiny_model, model_type, **changes)


def tiny_model(model_type: str, **changes: Any) -> torch.nn.Module:
    """A tiny model with random weights as wide as those of trained ones; `changes` are fields of its configuration."""
    # The grouped product of experts has no float64 kernel, which references need.
    config = tiny_config(model_type, **changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            _widen(parameter)
    return model


def _widen(parameter: torch.Tensor) -> None:
    """Makes of initial values what could have been trained: attention has peaks, biases are not zero.

    What is neither narrow noise nor zero (scales of norms, decay rates) has a meaning and stays.
    """
    spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
    if parameter.dim() > 1 and 0 < spread < _WIDTH and abs(float(parameter.mean())) < spread:
        parameter.mul_(_WIDTH / spread)
    elif not parameter.any():
        parameter.normal_(std=0.02)


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The small configuration of a model type; `changes` are fields set otherwise."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**_fields(config_class, changes))


def _fields(config_class: type[PreTrainedConfig], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a small configuration, those of its parts (text, vision, audio) included."""
    changes = {**_EXCEPTIONS.get(config_class.model_type, {}), **changes}
    found: dict[str, Any] = {}
    for field in fields(config_class):
        if isinstance(field.default, int) and field.default > _LARGEST.get(field.name, field.default):
            found[field.name] = _LARGEST[field.name]
        elif "token_i" in field.name and isinstance(field.default, int) and field.default >= VOCABULARY:
            found[field.name] = VOCABULARY - 1 - len(found)
        elif field.name in ("is_decoder", "causal"):  # what was made for masked language modelling can be causal, too
            found[field.name] = True
    for name, spec in config_class.sub_configs_defaults.items():
        part = spec.config_class if hasattr(spec.config_class, "model_type") else CONFIG_MAPPING[spec.model_type]
        found[name] = {**_fields(part, changes.get(name, {})), "model_type": spec.model_type}
    return {
        **found,
        **_one_layer_of_each_kind(config_class, changes),
        **{n: v for n, v in changes.items() if n not in found or not isinstance(v, dict)},
    }


def _one_layer_of_each_kind(config_class: type[PreTrainedConfig], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that list the kinds of the layers, cut to the first layer of each kind, with the number of layers."""
    number = config_class.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if number in changes or "layer_types" in changes:
        return {}  # said by hand
    try:
        default = config_class()
    except (ValueError, StrictDataclassError):  # its own class refuses it
        return {}
    layers, known = getattr(default, "num_hidden_layers", None), {field.name for field in fields(config_class)}
    lists = {name: v for name, v in vars(default).items() if name in known and isinstance(v, list) and len(v) == layers}
    kept = sorted({kinds.index(kind) for kinds in lists.values() for kind in kinds})
    kept = kept * 2 if len(kept) == 1 else kept
    return {number: len(kept), **{name: [v[index] for index in kept] for name, v in lists.items()}} if kept else {}


def _each(model_types: str, **changes: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(model_types.split(), changes)


_GROUPED_EXPERTS = 16  # 8 groups, of which 4 are chosen
_MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64, "mamba_chunk_size": 16, "mamba_n_groups": 1}
_TWO_KINDS_TWICE = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}

#: What a model type, or a part of one, needs beside the small values: fields that must fit each other, and sizes with
#: names of their own.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    **_each("axk2 deepseek_v3 glm4_moe_lite glm_moe_dsa youtu", num_key_value_heads=4),
    **_each("axk1 deepseek_v32", num_key_value_heads=4, n_routed_experts=_GROUPED_EXPERTS),
    **_each("hunyuan_v1_dense hunyuan_v1_moe ministral", head_dim=8),
    "bailing_hybrid": {"num_local_experts": _GROUPED_EXPERTS, "layer_group_size": 2, "num_key_value_heads": 4},
    "bamba": {**_MAMBA_HEADS, "num_hidden_layers": 2, "attn_layer_indices": [1]},
    "beam": {"num_experts": _GROUPED_EXPERTS},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "blt_local_decoder": {"hidden_size_global": 32},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32, "downsample_hidden_size": 8},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "index_n_heads": 2,
        "shared_experts_intermediate_size": 24,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 8,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_qk_rope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "falcon_h1": _MAMBA_HEADS,
    "gemma3n_text": {
        **_TWO_KINDS_TWICE,
        "num_kv_shared_layers": 2,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    **_each(
        "gemma4_assistant gemma4_unified_assistant",
        text_config={
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        },
        num_centroids=16,
    ),
    "gemma4_unified_vision": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**_MAMBA_HEADS, "num_hidden_layers": 2, "layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4, "num_key_value_heads": 4},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "minicpm3": {"num_key_value_heads": 4, "dim_model_base": 32},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 16},
    **_each(
        "qwen4_exp qwen4_exp_text",
        eos_token_id=2,
        ple_layer_ids=[1],
        ngram_vocab_size_base=64,
        make_ngram_vocab_size_divisible_by=8,
        split_ngram_parts=2,
        heads_per_ngram=2,
        hc_lowrank=8,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=32,
        indexer_compress_ratio=4,
    ),
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "num_attention_heads": 2,
        "attention_head_size": 16,
        "local_attn_chunk_length": 16,
        "lsh_attn_chunk_length": 16,
    },
    "roc_bert": {
        "pronunciation_vocab_size": VOCABULARY,
        "shape_vocab_size": VOCABULARY,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "xlstm": {"hidden_size": 128, "num_heads": 4, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_dt_rank": 4},
}
