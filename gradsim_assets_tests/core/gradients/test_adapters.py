"""Gradients of adapters: of every trained tensor as exact as those of whole models, and the merged model's seen through them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from gradsim_assets.core.gradients.engine import PassResult, plain_gradient, run_pass
from gradsim_assets.core.models.loading import load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets_tests.support.adapters import KINDS, adapted
from gradsim_assets_tests.support.architectures import tiny_model
from gradsim_assets_tests.support.engine_cases import small_request
from gradsim_assets_tests.support.gradient_sweep import ALONE, BATCHED, SETTING, outcome
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: Architectures with what adapters are put into: attention apart and fused, matrices stored the other way round, tied heads, norms
#: that add one, and experts that stay frozen.
TARGETS = {
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "gemma2": ["k_proj", "up_proj"],
    "mixtral": ["q_proj", "v_proj"],
}


def sweep(model_type: str, config: PeftConfig, trained: bool) -> str:
    """What the engine makes of an adapter in a tiny model; asserts that no number of it is wrong."""
    name = f"{model_type} with {config.peft_type}"
    return outcome(name, lambda: adapted(tiny_model(model_type), config, trained).get_base_model()).what


@pytest.mark.parametrize("trained", [False, True], ids=["drawn", "trained"])
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("model_type", TARGETS)
def test_gradients_are_those_of_float64_autograd(model_type: str, use_dora: bool, trained: bool) -> None:
    config = LoraConfig(r=4, target_modules=TARGETS[model_type], use_dora=use_dora, task_type="CAUSAL_LM")
    assert sweep(model_type, config, trained) == BATCHED


@pytest.mark.parametrize("model_type", TARGETS)
def test_scales_in_front_of_layers_and_behind_them_go_in_batches(model_type: str) -> None:
    """IA3: the last target has its vector in front of it, the first behind."""
    config = IA3Config(
        target_modules=TARGETS[model_type], feedforward_modules=TARGETS[model_type][1:], task_type="CAUSAL_LM"
    )
    assert sweep(model_type, config, trained=True) == BATCHED


#: What autograd has to form, so that samples go one by one.
OF_AUTOGRAD = ("token_deltas", "tokens", "loha", "lokr", "embeddings")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lora", "dora", "ia3")])
def test_every_kind_of_adapter_is_exact(kind: str) -> None:
    assert sweep("llama", KINDS[kind], trained=True) == (ALONE if kind in OF_AUTOGRAD else BATCHED)


def test_a_magnitude_of_zero_is_left_to_autograd() -> None:
    """What DoRA scales is found by dividing by it."""

    def build() -> torch.nn.Module:
        model = adapted(tiny_model("llama"), KINDS["dora"]).get_base_model()
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "magnitude" in name)[3] = 0.0
        return model

    assert outcome("llama", build).what == ALONE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that transformers' Trainer leaves of a LoRA, as PEFT's examples train one."""
    root = tmp_path_factory.mktemp("trained")
    base = AutoModelForCausalLM.from_pretrained(save_tiny_model(root / "base", "llama"))
    model = adapted(base, KINDS["lora"], trained=False)
    ids = torch.randint(4, 200, (8, 20), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        output_dir=str(root / "run"),
        per_device_train_batch_size=4,
        max_steps=4,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_steps=4,
    )
    Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids]).train()
    return root / "run/checkpoint-4"


def loaded(folder: Path, components: str) -> torch.nn.Module:
    model: torch.nn.Module = load_model(str(folder), resolve(str(folder)), "float32", "cpu", components)[0]  # type: ignore[arg-type]
    return model


def test_an_adapters_products_are_those_of_the_merged_gradients_that_reach_it(trained: Path) -> None:
    """With W' = W + s B A the chain rule gives dL/dB = s (dL/dW') A^T and dL/dA = s B^T (dL/dW'): the products of an adapter are
    those of the merged model's gradients, seen through the other factor."""
    request = small_request()
    adapter, found = _passed(trained, "adapter", request)
    merged, whole = _passed(trained, "merged", request)
    scale = KINDS["lora"].lora_alpha / KINDS["lora"].r
    weights = dict(trainable_components(adapter))
    assert all(weights[name].any() for name in weights), "training has moved B away from zero"
    named = trainable_components(merged)
    samples = {s.id: s for s in request.originals}, {s.id: s for s in request.variants[SETTING]}
    of_originals, of_variants = (
        {
            one.id: dict(zip(dict(named), plain_gradient(merged, one, [p for _, p in named])[1], strict=True))
            for one in own.values()
        }
        for own in samples
    )
    for row, (variant, original) in enumerate(request.pairs[SETTING]):
        one, other = of_variants[variant], of_originals[original]
        for component in found.components:
            layer, _, factor = component.rpartition(".")
            a, b = weights[f"{layer}.lora_A"].detach(), weights[f"{layer}.lora_B"].detach()
            g, h = one[f"{layer}.weight"], other[f"{layer}.weight"]
            seen = [x @ a.T if factor == "lora_B" else b.T @ x for x in (g, h)]
            exact = scale**2 * float((seen[0].double() * seen[1].double()).sum())
            length = scale**2 * float(seen[0].norm() * seen[1].norm())
            # Both are right to 1e-5 of their lengths; merging rounds each weight once more.
            assert abs(_product(found, row, component) - exact) <= 5e-5 * length
            in_whole = float((g.double() * h.double()).sum())
            assert abs(_product(whole, row, f"{layer}.weight") - in_whole) <= 2e-5 * float(g.norm() * h.norm())


def _passed(folder: Path, components: str, request) -> tuple[torch.nn.Module, PassResult]:
    load_model.cache_clear()
    model = loaded(folder, components)
    return model, run_pass(model, request)


def _product(result: PassResult, row: int, component: str) -> float:
    return float(result.dot_products[SETTING][row, result.components.index(component)])


def test_a_step_of_training_and_the_gradients_of_its_samples_agree(trained: Path) -> None:
    """The Trainer's checkpoint is the adapter and not the base: its losses are those of the samples under both together."""
    request = small_request()
    load_model.cache_clear()
    model = loaded(trained, "adapter")
    with_adapter = run_pass(model, request).losses[SETTING]
    base = AutoModelForCausalLM.from_pretrained(resolve(str(trained)).base.source)  # type: ignore[union-attr]
    without = run_pass(base, request).losses[SETTING]
    assert np.abs(np.array([with_adapter[name] - without[name] for name in without])).min() > 1e-5
