"""Bases in few bits under an adapter: loaded, laid out and drawn as bitsandbytes and transformers do it, or one sentence."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gradsim_assets.core.datasets.generation.decoder import evaluation
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import shape_of
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.models.controls import untrained_id
from gradsim_assets.core.models.loading import LoadedModel, load_model, untrained_adapter
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.quantised_linear import quantised_layers
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.quantised import WAYS, dequantised_twin, loaded_by_transformers, save_quantised

IDS = torch.arange(3, 40)[None]


def hub_of(folder: Path, **settings: object) -> ModelHub:
    return ModelHub(home=str(folder.parent), device="cpu", models=[{"id": str(folder), **settings}])


def load(folder: Path, **settings: object) -> LoadedModel:
    load_model.cache_clear()  # the files change under the same name
    hub = hub_of(folder, **settings)
    return hub.load(str(folder), hub.resolve(str(folder)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("way", ["4bit", "fp4"])
def test_four_bits_are_computed_as_peft_and_bitsandbytes_do(adapter: Path, base: Path, way: str) -> None:
    own = PeftModel.from_pretrained(loaded_by_transformers(base, way), adapter).eval()
    loaded = load(adapter, quantize=way)
    assert torch.equal(logits(loaded.model), logits(own))
    assert [name for name, _ in trainable_components(loaded.model)] == [
        name for name, _ in trainable_components(load(adapter).model)
    ]
    prompt = IDS[:, :6]
    with evaluation(loaded.model), evaluation(own):
        answers = [
            one.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0) for one in (loaded.model, own)
        ]
    assert torch.equal(*answers)


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_those_that_transformers_dequantises_stored_or_quantised_here(
    adapter: Path, base: Path, way: str
) -> None:
    exact = dict(loaded_by_transformers(base, way).dequantize().named_modules())
    for folder, settings in ((base, {"quantize": way}), (save_quantised(base, base.with_name("bits"), way), {})):
        model = load(adapter, base=str(folder), **settings).model
        layers = {
            name.removesuffix(".base_layer"): one
            for name, one in model.named_modules()
            if one in quantised_layers(model)
        }
        assert len(layers) == 14 and "lm_head" not in layers
        assert all(torch.equal(one.weight.float(), exact[name].weight) for name, one in layers.items())


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_counts_the_bits_and_what_one_layer_takes_while_it_is_used(adapter: Path, way: str) -> None:
    exact = measure(GradientHooks(load(adapter, quantize=way).model))
    hub = hub_of(adapter, quantize=way)
    found = shape_of(lambda: hub.blank(str(adapter), resolve(str(adapter))))
    plain = measure(GradientHooks(load(adapter).model))
    assert found.components == exact.components == plain.components
    assert found.model_bytes == exact.model_bytes < plain.model_bytes
    numbers = sum(p.numel() for p in load(adapter).model.model.layers.parameters() if not p.requires_grad) - 4 * 16
    bits = 8 if way == "8bit" else 4
    # The scales of so small a model take more than the bits do.
    assert numbers * (32 - bits) / 8 - 4 * 4000 < plain.model_bytes - exact.model_bytes < numbers * (32 - bits) / 8
    assert found.other_products == exact.other_products == plain.other_products, "what is frozen costs no more"
    assert found.dequantised_bytes == exact.dequantised_bytes == 4 * 16 * 32
    assert found.activations.linear == exact.activations.linear == plain.activations.linear, "no float weight is kept"
    graph = PassGraph({"a": (20, 8)}, {}, {})
    profile = profile_of(torch.device("cpu"), torch.float32, "fp32")
    shapes = (exact, replace(exact, dequantised_bytes=0))
    needs = [MemoryModel(shape, graph, frozenset(), profile).passing_bytes(20, 20, 8) for shape in shapes]
    assert needs[0] - needs[1] == exact.dequantised_bytes


def test_all_of_it_merged_is_the_dequantised_base_and_the_adapter(adapter: Path, base: Path) -> None:
    model = load(adapter, quantize="4bit", components="merged").model
    assert not quantised_layers(model)
    assert torch.allclose(logits(model).double(), logits(dequantised_twin(base, adapter, "4bit")), atol=1e-5)
    assert len(trainable_components(model)) == len(trainable_components(AutoModelForCausalLM.from_pretrained(base)))


def test_how_it_is_quantised_is_part_of_the_version(adapter: Path, base: Path) -> None:
    versions = {way: hub_of(adapter, quantize=way).version_now(str(adapter)) for way in ("", *WAYS)}
    assert len(set(versions.values())) == 5
    assert versions["4bit"] == f"{versions['']} quantize=4bit"
    bits = save_quantised(base, base.with_name("bits"), "4bit")
    assert hub_of(adapter, base=str(bits)).resolve(str(adapter)) != hub_of(adapter).resolve(str(adapter))
    assert load(adapter, quantize="4bit").quantised.startswith("4 bits (nf4, scales quantised, too) by bitsandbytes ")
    assert load(adapter).quantised == ""


def test_controls_of_a_quantised_adapter_its_base_is_whole_and_its_untrained_self_is_in_bits(
    adapter: Path, base: Path
) -> None:
    hub = ModelHub(home=str(base), device="cpu", models=[{"id": str(adapter), "quantize": "4bit", "base": str(base)}])
    assert hub.settings(str(base)).quantize == ""
    control = untrained_id(str(adapter))
    assert hub.settings(control).quantize == "4bit"
    for folder, name in ((adapter, "adapter_model.safetensors"), (base, "model.safetensors")):
        (folder / name).unlink()
    load_model.cache_clear()
    model = hub.load(control, hub.resolve(control)).model
    assert len(quantised_layers(model)) == 14 and len(trainable_components(model)) == 8


def test_training_begins_over_the_quantised_base_and_moves_the_adapter_alone(adapter: Path) -> None:
    torch.manual_seed(0)
    model = untrained_adapter(str(adapter), resolve(str(adapter)), quantize="4bit")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_B" in name}  # B is zero at first, and A has no gradient then


def _config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_has_no_gradients_is_refused_with_the_reason(adapter: Path, base: Path) -> None:
    bits = save_quantised(base, base.with_name("bits"), "4bit")
    with pytest.raises(
        InputError,
        match=r"bits holds quantised weights \(4 bits \(nf4, scales quantised, too, bitsandbytes\)\), which have no gradients, and no adapter",
    ):
        load(bits)
    with pytest.raises(InputError, match='base is no adapter, and quantize = "4bit" is for the base under one'):
        load(base, quantize="4bit")
    with pytest.raises(InputError, match="base of .*adapter is quantised already .*; leave quantize out"):
        load(adapter, base=str(bits), quantize="8bit")


@pytest.mark.parametrize(("method", "package"), [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("hqq", "hqq")])
def test_bases_that_others_have_quantised_are_refused_by_name(
    adapter: Path, base: Path, method: str, package: str
) -> None:
    _config(base, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(InputError, match=rf"quantised by {method}, in layers of the package {package} .* quantize = "):
        load(adapter)


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_named_with_what_installs_it(
    adapter: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python has it where it is not installed
    with pytest.raises(InputError, match=rf"needs the package {package}; install it with pip install 'gradsim\[quant"):
        load(adapter, quantize="4bit")


def test_scales_that_are_no_numbers_are_named(adapter: Path, base: Path) -> None:
    bits = save_quantised(base, base.with_name("bits"), "nf4")
    file = bits / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight.absmax"][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"mlp\.up_proj\.absmax holds NaN or infinite values"):
        load(adapter, base=str(bits))


def test_an_adapter_that_changes_its_base_as_it_is_drawn_is_refused_over_bits(adapter: Path) -> None:
    changed = adapter.with_name("pissa")
    shutil.copytree(adapter, changed)
    document = json.loads((changed / "adapter_config.json").read_text())
    (changed / "adapter_config.json").write_text(json.dumps({**document, "init_lora_weights": "pissa"}))
    with pytest.raises(
        InputError, match="init_lora_weights = 'pissa', which changes the weights of its base, and these"
    ):
        load(changed, quantize="4bit")
