"""Gradients of adapters over quantised bases, held against float64 autograd over the base that transformers dequantises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from gradsim_assets.core.evaluation.one_step import measuring
from gradsim_assets.core.evaluation.step import Step
from gradsim_assets.core.gradients.engine import PassOptions, plain_gradient, run_pass, verification
from gradsim_assets.core.gradients.engine.request import PassRequest
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.sample_gradients import token_contributions
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.reference import sample_loss
from gradsim_assets_tests.support.adapters import KINDS, adapted, save_adapter
from gradsim_assets_tests.support.engine_cases import small_request
from gradsim_assets_tests.support.gradient_sweep import SETTING
from gradsim_assets_tests.support.quantised import WAYS, dequantised_twin, loaded_by_transformers
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: What is promised of strict fp32; 1e-3 would do for the base's bits, and is what a pass refuses beyond.
PROMISED = 1e-5


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {kind: save_tiny_model(root / kind, kind) for kind in ("llama", "olmo", "gpt2")}


def load(folder: Path, way: str, dtype: str = "float32", components: Any = ()) -> LoadedModel:
    load_model.cache_clear()
    revision = resolve(str(folder))
    model, tokenizer = load_model(str(folder), revision, dtype, "cpu", components, way)  # type: ignore[arg-type]
    return LoadedModel(model, ChatTokenizer(tokenizer), revision, "cpu")


def errors(result: Any, exact: Any, request: PassRequest) -> np.ndarray:
    """By pair and component: the error of a product as share of the lengths of both gradients."""
    named = trainable_components(exact)
    assert [name for name, _ in named] == result.components
    parameters = [parameter for _, parameter in named]

    def gradients(samples: list) -> dict[str, list[torch.Tensor]]:
        return {one.id: plain_gradient(exact, one, parameters)[1] for one in samples}

    variants, originals = gradients(request.variants[SETTING]), gradients(request.originals)
    found = np.zeros((len(request.pairs[SETTING]), len(named)))
    for row, (variant, original) in enumerate(request.pairs[SETTING]):
        for number, (one, other) in enumerate(zip(variants[variant], originals[original], strict=True)):
            exactly, lengths = float((one * other).sum()), float(one.norm() * other.norm())
            found[row, number] = abs(result.dot_products[SETTING][row, number] - exactly) / lengths
    return found


#: What adapters are put into: plain layers, over tied embeddings, and layers that are stored the other way round.
TARGETS = {"llama": ["q_proj", "down_proj"], "olmo": ["v_proj", "up_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.mark.parametrize(
    ("architecture", "way"), [*(("llama", way) for way in WAYS), ("olmo", "4bit"), ("gpt2", "4bit"), ("gpt2", "8bit")]
)
def test_products_are_those_of_float64_over_the_dequantised_base(
    architecture: str, way: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    base, request = bases[architecture], small_request()
    config = LoraConfig(r=4, target_modules=TARGETS[architecture], task_type="CAUSAL_LM")
    adapted(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path)
    exact = dequantised_twin(base, tmp_path, way)
    model = load(tmp_path, way).model
    for form in ("formed", "factored"):
        result = run_pass(model, request, PassOptions(form=form))  # type: ignore[arg-type]
        assert errors(result, exact, request).max() <= PROMISED
        report = result.report
        assert report.dequantised_error is not None and report.dequantised_error <= PROMISED
        assert "samples go through in batches" in report.verified
        bits = "8 bits" if way == "8bit" else f"4 bits ({'fp4' if way == 'fp4' else 'nf4'}"
        assert report.quantised.startswith(bits) and "by bitsandbytes" in report.quantised
        assert "against float64 over its dequantised weights" in report.verified


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lora"])
def test_every_kind_of_adapter_is_exact_over_four_bits(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(bases["llama"], tmp_path, kind)
    request = small_request()
    result = run_pass(load(tmp_path, "4bit").model, request)
    assert errors(result, dequantised_twin(bases["llama"], tmp_path, "4bit"), request).max() <= PROMISED


@pytest.fixture
def adapter(bases: dict[str, Path], tmp_path: Path) -> Path:
    save_adapter(bases["llama"], tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_pass_whose_gradients_are_not_those_of_the_dequantised_base_ends(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "DEQUANTISED", 1e-9)  # less than fp32 can do
    with pytest.raises(
        ArithmeticError, match="over the quantised base are off from those of float64 over its dequantised"
    ):
        run_pass(load(adapter, "4bit").model, small_request())


def test_half_precision_says_what_it_costs_and_is_not_refused(adapter: Path) -> None:
    result = run_pass(load(adapter, "4bit", "bfloat16").model, small_request())
    error = result.report.dequantised_error
    # bfloat16 rounds at 4e-3, and more over two layers.
    assert error is not None and 1e-3 < error < 0.5


def test_what_bitsandbytes_makes_of_eight_bits_itself_is_another_function(
    adapter: Path, bases: dict[str, Path]
) -> None:
    """LLM.int8 rounds activations to 8 bits, too, so its loss is not that of the dequantised weights, and its gradients are those of
    no function. Measured here, so that the pages may say how much that is: losses by 2e-6, gradients by up to 0.8 %."""
    request, ours = small_request(), load(adapter, "8bit").model
    theirs = PeftModel.from_pretrained(
        loaded_by_transformers(bases["llama"], "8bit"), adapter, is_trainable=True
    ).eval()
    differences, off = [], []
    for sample in request.originals:
        losses, gradients = [], []
        for model in (ours, theirs):
            own = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
            for parameter in own:
                parameter.requires_grad_(True)
            loss = sample_loss(model, sample, "cpu")
            losses.append(float(loss.detach()))
            gradients.append(torch.cat([one.flatten() for one in torch.autograd.grad(loss, own)]))
        differences.append(abs(losses[0] - losses[1]) / losses[0])
        off.append(float((gradients[0] - gradients[1]).norm() / gradients[0].norm()))
    assert 1e-7 < max(differences) < 1e-4, differences
    assert 10 * PROMISED < max(off) < 0.05, off


def test_steps_on_originals_are_measured_over_quantised_bases_and_leave_weights_alone(adapter: Path) -> None:
    request, loaded = small_request(), load(adapter, "4bit")
    pairs, rate = request.pairs[SETTING], 0.1
    products = run_pass(loaded.model, request).dot_products[SETTING].sum(1)
    with measuring(loaded, request, SETTING) as measure:
        assert measure.arithmetic == "float64"
        changes = measure(pairs, Step("sgd", rate))
    predicted = [-rate * product for product in products]
    # A step of plain SGD changes a loss as the product predicts, to first order; norms of LLaMA round to fp32 whatever the rest is in.
    assert [changes[pair] for pair in pairs] == pytest.approx(predicted, rel=2e-2, abs=1e-8)


def test_products_are_split_over_tokens_by_derivatives_that_go_forward_through_quantised_layers(
    adapter: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_contributions, "_token_by_token", lambda *given: pytest.fail("there is no forward rule"))
    request, model = small_request(), load(adapter, "4bit").model
    exact = dequantised_twin(bases["llama"], adapter, "4bit")
    one, other = request.originals[:2]
    parameters = [parameter for _, parameter in trainable_components(exact)]
    direction = plain_gradient(exact, one, parameters)[1]
    expected = sum(
        float((a * b).sum()) for a, b in zip(direction, plain_gradient(exact, other, parameters)[1], strict=True)
    )
    found = token_contributions.token_contributions(model, other, [part.float() for part in direction])
    assert float(found.sum()) == pytest.approx(expected, rel=1e-4)  # rounding of fp32 in sums of both signs
