"""The sizes of components, of every architecture and out of a config.json."""

import pytest

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component, sizes_from_config
from gradsim_assets.core.components import family
from gradsim_assets.core.errors import InputError

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
