"""Models that read images: their text part alone, where that is asked for, with the gradients of float64 autograd."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from gradsim_assets.core.datasets.generation.answers import generate_answers
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import run_pass, shape_of
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.samples import Sample
from gradsim_assets.demo.model import train_tokenizer
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.adapters import adapted
from gradsim_assets_tests.support.engine_cases import brute_force, small_request
from gradsim_assets_tests.support.gradient_sweep import SETTING

_TEXT = {
    "vocab_size": 2048,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}


def llava() -> Any:
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**seen, image_size=16, patch_size=8)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**_TEXT), image_token_index=2047)
    )


def qwen2_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = {**_TEXT, "num_key_value_heads": 1, "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 0}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


@pytest.fixture(params=[llava, qwen2_vl])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path / "model")
    train_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def hub_of(folder: Path, **settings: object) -> ModelHub:
    return ModelHub(home=str(folder.parent), device="cpu", models=[{"id": str(folder), **settings}])


def load(folder: Path, said: list[str], **settings: object) -> LoadedModel:
    load_model.cache_clear()
    hub = hub_of(folder, **settings)
    return hub.load(str(folder), hub.resolve(str(folder)), said.append)


def test_without_the_choice_it_is_refused_and_the_choice_is_named(folder: Path) -> None:
    with pytest.raises(
        InputError,
        match=r'is a (Llava|Qwen2VL)ForConditionalGeneration, which reads images .*; set part = "text" in its entry',
    ):
        load(folder, [])


def test_products_of_the_text_part_are_exact_and_nothing_else_has_any(folder: Path) -> None:
    said: list[str] = []
    loaded, request = load(folder, said, part="text"), small_request()
    assert any("weights for images or sound, which texts do not reach; they are left out" in line for line in said)
    result = run_pass(loaded.model, request)
    assert result.components and not any("vision" in name or "visual" in name for name in result.components)
    exact = {one.id: brute_force(loaded.model, one) for one in request.originals}
    variants = {one.id: brute_force(loaded.model, one) for one in request.variants[SETTING]}
    for row, (variant, original) in enumerate(request.pairs[SETTING]):
        for number, name in enumerate(result.components):
            a, b = variants[variant][name], exact[original][name]
            assert abs(result.dot_products[SETTING][row, number] - float((a * b).sum())) <= 1e-5 * float(
                a.norm() * b.norm()
            )


def test_it_is_part_of_the_version_and_known_to_plans(folder: Path) -> None:
    hub = hub_of(folder, part="text")
    assert hub.version_now(str(folder)) == f"{hub_of(folder).version_now(str(folder))} part=text"
    found = shape_of(lambda: hub.blank(str(folder), resolve(str(folder))))
    exact = measure(GradientHooks(load(folder, [], part="text").model))
    assert [(c.name, c.shape) for c in found.components] == [(c.name, c.shape) for c in exact.components]
    assert found.model_bytes == exact.model_bytes


def test_it_answers_as_by_itself(folder: Path) -> None:
    loaded = load(folder, [], part="text")
    samples = [Sample(str(n), text, "?") for n, text in enumerate(("How are you?", "Tell me of tea, please.", "Why?"))]
    found = generate_answers(loaded.model, loaded.tokenizer, samples, max_positions=40, device="cpu", batch_size=3)
    for sample, answer in zip(samples, found, strict=True):
        prompt = torch.as_tensor(loaded.tokenizer.prompt_ids(sample))[None]
        count = answer.completion_tokens
        assert count > 3
        alone = loaded.model.generate(prompt, max_new_tokens=count, do_sample=False, pad_token_id=0)[
            0, prompt.shape[1] :
        ]
        assert answer.answer == loaded.tokenizer.decode(alone.tolist())


def test_an_adapter_over_its_text_part_is_taken(folder: Path) -> None:
    base = load(folder, [], part="text").model
    config = LoraConfig(r=4, target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM")
    adapter = folder.with_name("adapter")
    made = adapted(base, config)
    made.save_pretrained(adapter)
    document = (adapter / "adapter_config.json").read_text()
    assert "language_model" in document
    loaded = load(adapter, [], part="text", base=str(folder))
    names = [name for name, _ in trainable_components(loaded.model)]
    assert len(names) == 4 and all("language_model.layers" in name for name in names)
    ids = torch.arange(4, 30)[None]
    assert torch.equal(loaded.model(input_ids=ids).logits, made(input_ids=ids).logits)
