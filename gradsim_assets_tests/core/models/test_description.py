"""What the files of a model say of it: numbers that are right, or none."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gradsim_assets.core.models.description import ModelDescription, Tensor, describe, description, stored_tensors
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def real_parameters(folder: Path) -> int:
    return int(AutoModelForCausalLM.from_pretrained(folder).num_parameters())


@pytest.mark.parametrize("kind", ["olmo", "llama", "gpt2"])
def test_parameters_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, kind, positions=128)
    found = describe(resolve(str(folder)))
    assert found == ModelDescription(real_parameters(folder), real_parameters(folder), "float32", 128)


def test_buffers_of_old_checkpoints_are_no_parameters(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "gpt2")
    real = real_parameters(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 512, 512)
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["transformer.h.0.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["transformer.position_ids"] = torch.arange(512)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert describe(resolve(str(folder))).parameters == real


def test_a_head_that_may_be_tied_or_not_leaves_the_number_out(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "olmo")
    config = json.loads((folder / "config.json").read_text())
    tensors = stored_tensors(folder)
    assert tensors is not None
    doubled = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    assert description({**config, "tie_word_embeddings": True}, doubled).parameters is None
    config.pop("tie_word_embeddings", None)
    assert description(config, doubled).parameters is None
    untied = description({**config, "tie_word_embeddings": False}, doubled)
    assert (
        untied.parameters
        == real_parameters(folder) + len(load_file(folder / "model.safetensors")["model.embed_tokens.weight"]) * 16
    )


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {"a.weight": Tensor("F16", (2, 2))}),
        ({}, {"a.weight": Tensor("F8_E4M3", (2, 2))}),
        ({}, {"layers.0.gate.e_score_correction_bias": Tensor("F32", (4,)), "a.weight": Tensor("F32", (2, 2))}),
        ({}, {"layers.0.gate.bias": Tensor("F32", (4,)), "a.weight": Tensor("F32", (2, 2))}),
        ({}, {}),
        ({}, None),
    ],
)
def test_what_is_not_certain_is_left_out(config: dict[str, object], tensors: dict[str, Tensor] | None) -> None:
    assert description(config, tensors).parameters is None


def test_of_a_model_that_also_reads_images_it_is_not_said_what_is_trained() -> None:
    config = {
        "text_config": {"model_type": "llama", "max_position_embeddings": 64},
        "vision_config": {"model_type": "x"},
    }
    found = description(config, {"a.weight": Tensor("BF16", (3, 2)), "norm.weight": Tensor("F32", (2,))})
    assert found == ModelDescription(8, None, "bfloat16, float32", 64)


def test_weights_in_several_files_are_counted_by_the_index(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "llama")
    real = real_parameters(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    save_file({"stray.weight": torch.ones(5)}, folder / "consolidated.safetensors")
    assert describe(resolve(str(folder))).parameters == real


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x10\0\0\0\0\0\0\0{"])
def test_a_damaged_header_says_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 32}')
    (tmp_path / "model.safetensors").write_bytes(content)
    assert describe(resolve(str(tmp_path))) == ModelDescription(context=32)
