"""Which layers go to which of several devices, and what is refused."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassOptions, run_pass
from gradsim_assets.core.models.loading import load_model
from gradsim_assets.core.models.positions import logits_of
from gradsim_assets.core.models.spreading import device_map, spread_over
from gradsim_assets.core.sample_gradients.pieces import balanced, bytes_of, pieces_of
from gradsim_assets.core.sample_gradients.several_devices import devices_of
from gradsim_assets.resources import model_hub
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.core.gradients.test_gradient_pass import assert_same
from gradsim_assets_tests.support.adapters import save_adapter
from gradsim_assets_tests.support.engine_cases import llama3_70b, small_request
from gradsim_assets_tests.support.simulated_devices import simulated_devices
from gradsim_assets_tests.support.tiny_models import save_tiny_model

TWO = ["cpu:0", "cpu:1"]

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 6}


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_layers_stay_whole_and_neighbours_stay_together():
    model = on_meta(LlamaConfig(**SIZES, intermediate_size=32))
    places = device_map(model, ["cuda:2", "cuda:0", "cuda:1"])
    assert list(dict.fromkeys(places.values())) == ["cuda:2", "cuda:0", "cuda:1"]
    assert places["model.embed_tokens"] == places["model.rotary_emb"] == "cuda:2"
    assert places["model.norm"] == places["lm_head"] == "cuda:1"
    assert [places[f"model.layers.{n}"] for n in range(6)] == sorted(
        (places[f"model.layers.{n}"] for n in range(6)), key=["cuda:2", "cuda:0", "cuda:1"].index
    )
    named = {name for name, _ in model.named_parameters()}
    assert all(sum(name.startswith(f"{place}.") for place in places) == 1 for name in named)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, n_positions=32),
        GemmaConfig(**SIZES, intermediate_size=32, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True),
    ],
)
def test_a_tied_head_is_where_the_embedding_is(config):
    model = on_meta(config)
    places = device_map(model, TWO)
    embedding = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    assert places["lm_head"] == places[embedding] == "cpu:0"
    assert "cpu:1" in places.values()


def test_the_fullest_device_has_least_of_all_ways():
    random = torch.Generator().manual_seed(0)
    for devices in (2, 3, 4):
        sizes = torch.randint(1, 100, (9,), generator=random).tolist()
        places = balanced(sizes, devices)
        assert places == sorted(places) and len(set(places)) == devices
        fullest = max(sum(size for size, one in zip(sizes, places, strict=True) if one == d) for d in range(devices))
        # What comes before the layers goes with the first, and what comes behind with the last.
        cuts = torch.combinations(torch.arange(2, 8), devices - 1).tolist()
        least = min(max(sum(sizes[a:b]) for a, b in zip([0, *cut], [*cut, 9], strict=True)) for cut in cuts)
        assert fullest == least
    assert balanced([5, 1, 1, 5], 8) == [0, 0, 1, 1]  # no more than there are layers


def test_seventy_billion_parameters_are_shared_out_evenly():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llama3_70b(), dtype=torch.bfloat16)
    sizes = [bytes_of(piece) for piece in pieces_of(model)]
    of_device = [0] * 8
    for size, device in zip(sizes, balanced(sizes, 8), strict=True):
        of_device[device] += size
    assert sum(of_device) == 2 * model.num_parameters()
    assert max(of_device) - min(of_device) < max(sizes)  # one layer more or less


@pytest.fixture
def base(tmp_path):
    return save_tiny_model(tmp_path / "base", "llama")


def loaded_over(monkeypatch, model_id, devices=TWO):
    """A model as a run has it, over several devices."""
    monkeypatch.setattr(model_hub, "own_devices", lambda *asked: devices)
    load_model.cache_clear()
    hub = ModelHub(home="/nowhere", device="auto", devices=len(devices), models=[])
    loaded = hub.load(str(model_id), hub.resolve(str(model_id)))
    assert hub.load(str(model_id), hub.resolve(str(model_id))).model is loaded.model  # spread once
    load_model.cache_clear()
    return loaded


def test_a_run_has_its_model_spread_with_the_logits_of_one_device(base, monkeypatch):
    ids = torch.arange(1, 9)[None]
    one = logits_of(loaded_over(monkeypatch, base, ["cpu"]).model, ids)
    with simulated_devices() as devices:
        loaded = loaded_over(monkeypatch, base)
        spread = logits_of(loaded.model, ids)
        assert devices.of(spread) == torch.device("cpu:0") == torch.device(loaded.device)
        assert devices_of(loaded.model) == list(map(torch.device, TWO))
        assert all(p.requires_grad for p in loaded.model.parameters())
        assert not any(module.training for module in loaded.model.modules())
    assert torch.equal(spread, one)


@pytest.mark.parametrize("kind", ["lora", "modules_to_save", "embeddings"])
def test_an_adapter_lies_with_the_layers_that_it_is_in(base, tmp_path, monkeypatch, kind):
    save_adapter(base, tmp_path / kind, kind)
    request = small_request(originals=4, variants=2)
    request = replace(
        request,
        originals=[
            replace(one, input_ids=one.input_ids % 100, labels=one.labels.clip(max=99)) for one in request.originals
        ],
        variants={
            name: [replace(one, input_ids=one.input_ids % 100, labels=one.labels.clip(max=99)) for one in own]
            for name, own in request.variants.items()
        },
    )
    options = PassOptions(memory_bytes=2**30)
    whole = run_pass(loaded_over(monkeypatch, tmp_path / kind, ["cpu"]).model, request, options)
    with simulated_devices():
        model = loaded_over(monkeypatch, tmp_path / kind).model
        trained = {parameter.device for parameter in model.parameters() if parameter.requires_grad}
        assert trained == set(map(torch.device, TWO))
        found = run_pass(model, request, replace(options, device="cpu:0"))
    assert found.components == whole.components
    assert_same(whole, found)


def test_what_cannot_be_spread_is_refused_in_a_sentence(base, tmp_path, monkeypatch):
    save_adapter(base, tmp_path / "lora")
    hub = ModelHub(home="/nowhere", device="auto", models=[{"id": str(tmp_path / "lora"), "quantize": "nf4"}])
    monkeypatch.setattr(model_hub, "own_devices", lambda *asked: TWO)
    with pytest.raises(
        InputError, match="cannot be spread over 2 GPUs: its base is in few bits, .* set compute.devices = 1"
    ):
        hub.load(str(tmp_path / "lora"), hub.resolve(str(tmp_path / "lora")))
    for spoil, why in SPOILT.items():
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, intermediate_size=32))
        spoil(model)
        with pytest.raises(
            InputError, match=f"m cannot be spread over 2 GPUs: .*{re.escape(why)}.*; set compute.devices = 1"
        ):
            spread_over("m", model, TWO)


def _beside(model):
    model.model.register_parameter("positions", nn.Parameter(torch.zeros(4)))


def _shared(model):
    model.model.layers[5].mlp = model.model.layers[0].mlp


def _without_layers(model):
    model.model.layers = nn.ModuleList()


SPOILT = {
    _beside: "its weight model.positions stands beside its layers, in no module of its own",
    _shared: "some of its layers share their weights",
    _without_layers: "it has no layers that are known to stay whole",
}


def test_a_model_that_keeps_a_tensor_to_itself_is_refused():
    with simulated_devices():
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, intermediate_size=32))
        layer, weight = model.model.layers[5], model.model.layers[0].input_layernorm
        forward = layer.forward
        layer.forward = lambda hidden, *rest, **named: forward(hidden * weight.weight, *rest, **named)
        for _ in range(2):  # as a step does that is tried again
            with pytest.raises(InputError, match="m cannot be spread over 2 GPUs: .*cpu:0, cpu:1"):
                spread_over("m", model, TWO)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_pass_over_two_gpus_gives_the_numbers_of_one():
    request, options = small_request(projections={"paraphrased": (0.05,)}), PassOptions(device="cuda:0")

    def model():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            LlamaConfig(**{**SIZES, "vocab_size": 211}, intermediate_size=32)
        ).eval()

    whole, spread = run_pass(model().to("cuda:0"), request, options), model()
    spread_over("m", spread, ["cuda:0", "cuda:1"])
    found = run_pass(spread, request, options)
    assert found.report.devices == 2 and found.report.checks.pairs
    assert_same(whole, found)
