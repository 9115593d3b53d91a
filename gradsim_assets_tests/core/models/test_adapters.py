"""Adapters over their bases: the very model that PEFT makes of both, or one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gradsim_assets.core.components import component_type, depth
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import shape_of
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.models.controls import untrained_id
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve, untrained_revision
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.demo.model import train_tokenizer
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.adapters import KINDS, adapted, save_adapter
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model

IDS = torch.arange(3, 40)[None]


def load(folder: Path, **settings: object) -> LoadedModel:
    load_model.cache_clear()  # the files change under the same name
    hub = ModelHub(home=str(folder.parent), device="cpu", models=[{"id": str(folder), **settings}])
    return hub.load(str(folder), hub.resolve(str(folder)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def names(model: Any) -> list[str]:
    return [name for name, _ in trainable_components(model)]


def edit(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


#: The last two components of every kind in the tiny LLaMA, and how many there are.
LAST = {
    "lora": (8, "model.layers.1.mlp.down_proj.lora_A", "model.layers.1.mlp.down_proj.lora_B"),
    "rslora": (28, "model.layers.1.mlp.down_proj.lora_A", "model.layers.1.mlp.down_proj.lora_B"),
    "dora": (12, "model.layers.1.mlp.down_proj.lora_B", "model.layers.1.mlp.down_proj.lora_magnitude_vector"),
    "modules_to_save": (15, "model.norm.weight", "lm_head.weight"),
    "token_deltas": (9, "model.layers.1.mlp.down_proj.lora_A", "model.layers.1.mlp.down_proj.lora_B"),
    "embeddings": (4, "lm_head.lora_A", "lm_head.lora_B"),
    "ia3": (4, "model.layers.1.self_attn.k_proj.ia3_l", "model.layers.1.mlp.down_proj.ia3_l"),
    "loha": (16, "model.layers.1.mlp.down_proj.hada_w2_a", "model.layers.1.mlp.down_proj.hada_w2_b"),
    "lokr": (8, "model.layers.1.mlp.down_proj.lokr_w1", "model.layers.1.mlp.down_proj.lokr_w2"),
    "norms": (3, "model.layers.1.input_layernorm.weight", "model.norm.weight"),
    "tokens": (1, "model.embed_tokens.trainable_tokens_delta"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_loaded_as_peft_loads_it_and_merged_as_peft_merges_it(kind: str, base: Path) -> None:
    folder = base.with_name(kind)
    save_adapter(base, folder, kind)
    exact = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval())
    assert not torch.allclose(exact, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-4)
    found = load(folder).model
    assert torch.equal(logits(found), exact)
    count, *last = LAST[kind]
    assert (len(names(found)), tuple(names(found)[-len(last) :])) == (count, tuple(last))
    hub = ModelHub(home=str(base), device="cpu", models=[])
    skeleton = hub.skeleton(str(folder), resolve(str(folder)))
    shapes = [[(name, p.shape) for name, p in trainable_components(model)] for model in (skeleton, found)]
    assert shapes[0] == shapes[1]
    in_one = load(folder, components="merged").model
    assert torch.allclose(logits(in_one), exact, atol=1e-6)
    assert names(in_one) == names(AutoModelForCausalLM.from_pretrained(base))


def test_names_tell_types_and_depth_whatever_peft_wraps(base: Path) -> None:
    save_adapter(base, base.with_name("a"), "embeddings")
    found = {name: (component_type(name), depth(name)) for name in names(load(base.with_name("a")).model)}
    assert found["model.embed_tokens.lora_embedding_A"] == ("embed_tokens.lora_embedding_A", None)
    assert found["lm_head.lora_B"] == ("lm_head.lora_B", None)
    assert component_type("model.layers.3.self_attn.q_proj.lora_A") == "self_attn.q_proj.lora_A"
    assert depth("model.layers.3.self_attn.q_proj.lora_A") == 3


def test_patterns_choose_among_the_tensors_that_an_adapter_has_trained(adapter: Path) -> None:
    assert names(load(adapter, components=["*.mlp.*.lora_B"]).model) == [
        f"model.layers.{block}.mlp.down_proj.lora_B" for block in (0, 1)
    ]
    with pytest.raises(InputError, match=r'the pattern "\*\.up_proj\.\*" matches none of the 8 components'):
        load(adapter, components=["*.up_proj.*"])


@pytest.mark.parametrize("view", ["adapter", "merged"])
def test_a_view_of_an_adapter_is_refused_for_a_model_that_is_none(base: Path, view: str) -> None:
    with pytest.raises(InputError, match=f'base is no adapter, and components = "{view}" is for adapters'):
        load(base, components=view)


def _without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"]


def _with_one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.2.mlp.down_proj.lora_B.weight"] = torch.zeros(16, 4)


def _of_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"] = torch.zeros(16, 4, dtype=torch.int8)


def _not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (
            _without_one,
            {},
            "lacks base_model.model.model.layers.1.mlp.down_proj.lora_B.weight, which its adapter_config",
        ),
        (_with_one_more, {}, r"holds base_model\S*layers.2.mlp.down_proj.lora_B.\S*, which the adapter of its"),
        (_of_integers, {}, r"lora_B.weight is of type int8, which has no gradient"),
        (_not_a_number, {}, r"lora_B\S* holds NaN or infinite values"),
        (dict.clear, {}, "lacks .* and 7 more, which its adapter_config.json asks for and PEFT would draw at random"),
        (
            None,
            {"r": 8},
            r"in another shape than its adapter_config.json and its base ask for \(\[4, 32\], not \[8, 32\]\)",
        ),
        (None, {"target_modules": ["q_proj", "up_proj"]}, "in another shape|lacks|holds"),
        (None, {"peft_type": "PROMPT_TUNING"}, "is an adapter of the kind PROMPT_TUNING, and supported are LORA, IA3"),
        (None, {"task_type": "SEQ_CLS"}, "is an adapter for SEQ_CLS, not for causal language modelling"),
        (None, {"alora_invocation_tokens": [3]}, "with alora_invocation_tokens, so that it is more than its layers"),
        (None, {"of_tomorrow": 2, "peft_version": "9.0"}, r"sets of_tomorrow, which PEFT \S+ does not know .*\(9.0\)"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_named_and_no_base_is_taken_for_it(
    adapter: Path, change: Callable | None, config: dict[str, object], said: str
) -> None:
    if change is not None:
        rewrite(adapter, change)
    edit(adapter, **config)
    with pytest.raises(InputError, match=said):
        load(adapter)


def test_tensors_of_modules_that_were_saved_whole_are_missed_too(base: Path) -> None:
    folder = base.with_name("saved")
    save_adapter(base, folder, "modules_to_save")
    rewrite(folder, lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    with pytest.raises(InputError, match="lacks .*lm_head"):
        load(folder)


def test_an_adapter_without_its_tensors_is_named(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no adapter_model.safetensors and no adapter_model.bin; save"):
        load(adapter)


def test_an_adapter_over_another_model_than_its_own_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", "gpt2")
    edit(adapter, base_model_name_or_path=str(other))
    with pytest.raises(InputError, match="q_proj"):  # which PEFT looks for in vain
        load(adapter)


def test_the_revision_follows_the_adapter_and_its_base(adapter: Path, base: Path) -> None:
    first = resolve(str(adapter))
    assert first.base is not None and first.name.endswith(f"+{resolve(str(base)).name}")
    rewrite(adapter, lambda tensors: tensors.update({name: 2 * tensor for name, tensor in tensors.items()}))
    second = resolve(str(adapter))
    save_tiny_model(base, "llama", seed=1)
    third = resolve(str(adapter))
    assert len({first.name, second.name, third.name}) == 3
    assert second.name.split("+")[1] == first.name.split("+")[1] != third.name.split("+")[1]
    assert second.name.split("+")[0] == third.name.split("+")[0] != first.name.split("+")[0]
    hub = ModelHub(home=str(base), device="cpu", models=[])
    with pytest.raises(InputError, match="changed while this run worked on it"):
        hub.revision_named(str(adapter), second.name)


def test_a_base_beside_its_adapter_moves_with_it(adapter: Path, base: Path, tmp_path: Path) -> None:
    exact = logits(load(adapter).model)
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    shutil.move(base, moved / "base")
    edit(moved, base_model_name_or_path="base")
    assert torch.equal(logits(load(moved).model), exact)


@pytest.mark.parametrize("named", [None, "/nowhere/base", "../nowhere/base"])
def test_a_base_that_is_not_there_is_named_and_may_be_given(adapter: Path, base: Path, named: str | None) -> None:
    exact = logits(load(adapter).model)
    edit(adapter, base_model_name_or_path=named)
    with pytest.raises(InputError, match="give its base as `base` of its entry under"):
        load(adapter)
    assert torch.equal(logits(load(adapter, base=str(base)).model), exact)


def test_an_adapter_over_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    shutil.copytree(adapter, upper)
    edit(upper, base_model_name_or_path=str(adapter))
    with pytest.raises(InputError, match=r"the base of the adapter .*upper is an adapter itself \(.*adapter\); merge"):
        load(upper)


def test_an_adapter_that_names_itself_as_its_base_is_refused(adapter: Path) -> None:
    for named in (".", str(adapter)):
        edit(adapter, base_model_name_or_path=named)
        with pytest.raises(InputError, match=r"the base of the adapter .* is an adapter itself"):
            load(adapter)


@pytest.mark.parametrize("named", [5, ["org/base"], {"id": "org/base"}])
def test_a_base_that_is_named_by_no_text_is_no_base(adapter: Path, named: object) -> None:
    edit(adapter, base_model_name_or_path=named)
    with pytest.raises(InputError, match=r"does not say what it was trained over"):
        load(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps([named]))
    with pytest.raises(InputError, match=r"does not say what it was trained over"):
        load(adapter)


def test_a_folder_with_an_adapter_and_a_whole_model_is_refused(adapter: Path, base: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", base)
    with pytest.raises(InputError, match="holds an adapter .* and the weights of a whole model; give each a place"):
        load(base)
    (base / "adapter_config.json").unlink()
    shutil.copy(base / "config.json", adapter)  # which some trainers leave there, and is no model by itself
    assert len(names(load(adapter).model)) == 8


def test_a_tokenizer_is_the_adapters_own_or_its_bases(adapter: Path, base: Path) -> None:
    assert load(adapter).tokenizer.tokenizer.name_or_path == str(base)
    train_tokenizer().save_pretrained(adapter)
    assert load(adapter).tokenizer.tokenizer.name_or_path == str(adapter)


def test_an_adapter_that_was_trained_with_more_tokens_brings_them(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    before = model.config.vocab_size
    model.resize_token_embeddings(before + 7)
    made = adapted(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    folder = base.with_name("more")
    made.save_pretrained(folder, save_embedding_layers=True)
    exact = logits(made)
    assert exact.shape[-1] == before + 7
    assert torch.equal(logits(load(folder).model), exact)
    rewrite(folder, lambda tensors: tensors.pop("base_model.model.lm_head.weight"))
    with pytest.raises(InputError, match=rf"trained with {before + 7} tokens .* {before}, and its file lacks lm_head"):
        load(folder)


def test_all_is_in_the_dtype_that_is_asked_for_and_merged_before_it_is_rounded(adapter: Path) -> None:
    halves = load(adapter, dtype="bfloat16").model
    assert {parameter.dtype for parameter in halves.parameters()} == {torch.bfloat16}
    exact, rounded = (load(adapter, dtype=dtype, components="merged").model for dtype in ("float32", "bfloat16"))
    weights = dict(exact.named_parameters())
    assert all(torch.equal(p, weights[name].bfloat16()) for name, p in rounded.named_parameters())


def test_the_untrained_control_of_an_adapter_is_drawn_as_a_whole_and_needs_no_weights(
    adapter: Path, base: Path
) -> None:
    hub = ModelHub(home=str(base), device="cpu", models=[])
    control = untrained_id(str(adapter))
    revision = hub.resolve(control)
    assert revision == untrained_revision(resolve(str(adapter)))
    first = logits(hub.load(control, revision).model)
    for folder, name in ((adapter, "adapter_model.safetensors"), (base, "model.safetensors")):
        (folder / name).unlink()
    load_model.cache_clear()
    again = hub.load(control, hub.resolve(control)).model
    assert torch.equal(logits(again), first) and len(names(again)) == 8
    assert not any(parameter.any() for name, parameter in trainable_components(again) if name.endswith("lora_B"))


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "modules_to_save"])
def test_a_plan_knows_an_adapters_shape_without_its_weights(base: Path, kind: str) -> None:
    folder = base.with_name(kind)
    save_adapter(base, folder, kind)
    exact = measure(GradientHooks(load(folder).model))
    hub = ModelHub(home=str(base), device="cpu", models=[])
    found = shape_of(lambda: hub.blank(str(folder), resolve(str(folder))))
    assert [(c.name, c.shape) for c in found.components] == [(c.name, c.shape) for c in exact.components]
    assert found.other_products == exact.other_products > 0
    assert found.activations.linear == exact.activations.linear


SETUP = (
    "from gradsim_assets.resources.model_hub import ModelHub\nhub = ModelHub(home='/nowhere', device='cpu', models=[])"
)


def test_an_adapter_on_the_hub_is_loaded_at_its_commit_over_the_commit_of_its_base(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    edit(adapter, base_model_name_or_path="org/base")
    exact = logits(load(adapter, base=str(base)).model).double().sum().item()
    with HubServer() as server:
        environment = {"HF_HOME": str(tmp_path / "cache"), **server.environment}
        commits = [server.push("org/adapter", adapter), server.push("org/base", base)]
        name = said_by(SETUP, "hub.resolve('org/adapter').name", **environment).splitlines()[-1]
        assert name == "+".join(commits)
        other = save_tiny_model(tmp_path / "other", "llama", seed=1)
        later = server.push("org/base", other)
        assert said_by(SETUP, "hub.resolve('org/adapter').name", **environment).split() == [f"{commits[0]}+{later}"]
        model = f"hub.load('org/adapter', hub.revision_named('org/adapter', {name!r})).model"
        import_torch = f"{SETUP}\nimport torch"
        said = said_by(import_torch, f"{model}(torch.arange(3, 40)[None]).logits.double().sum().item()", **environment)
        assert float(said.splitlines()[-1]) == exact, "the base as it was when the run began"
        pinned = {**json.loads((adapter / "adapter_config.json").read_text()), "revision": commits[1]}
        (adapter / "adapter_config.json").write_text(json.dumps(pinned))
        third = server.push("org/adapter", adapter)
        assert said_by(SETUP, "hub.resolve('org/adapter').name", **environment).split() == [f"{third}+{commits[1]}"]
    offline = said_by(SETUP, "hub.resolve('org/adapter').name", HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert offline.split() == [f"{third}+{commits[1]}"]
