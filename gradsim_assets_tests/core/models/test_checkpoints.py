"""Checkpoints that are not what their configuration says, each told by a sentence before anything is computed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.checkpoints import check_forward
from gradsim_assets.core.models.loading import LoadedModel, freeze_other_modalities, load_model
from gradsim_assets.demo.model import train_tokenizer
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.architectures import tiny_model
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", "llama")


def load(folder: Path, dtype: str = "float32") -> LoadedModel:
    load_model.cache_clear()  # the files change under the same name
    hub = ModelHub(home=str(folder.parent), device="cpu", models=[{"id": str(folder), "dtype": dtype}])
    return hub.load(str(folder), hub.resolve(str(folder)))


def configure(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor] | None]) -> None:
    file = folder / "model.safetensors"
    changed = [change(name, tensor) for name, tensor in load_file(file).items()]
    save_file(dict(one for one in changed if one is not None), file, metadata={"format": "pt"})


def test_whole_checkpoints_of_tied_and_untied_models_are_loaded(tmp_path: Path) -> None:
    for kind in ("olmo", "llama", "gpt2"):  # of the first and the last, one tensor stands for two weights
        assert load(save_tiny_model(tmp_path / kind, kind)).model.training is False


@pytest.mark.parametrize(
    ("kind", "config", "change", "said"),
    [
        # The head was tied when it was saved.
        (
            "olmo",
            {"tie_word_embeddings": False},
            None,
            "lacks 1 weight (lm_head.weight), which its config.json asks for",
        ),
        (
            "llama",
            {},
            lambda name, tensor: None if ".layers.1.mlp." in name else (name, tensor),
            "lacks 3 weights (model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, "
            "model.layers.1.mlp.up_proj.weight)",
        ),
        # torch.compile wraps a model under a name of its own.
        ("llama", {}, lambda name, tensor: (f"_orig_mod.{name}", tensor), "lacks 21 weights (lm_head.weight, "),
        ("llama", {"num_hidden_layers": 3}, None, "lacks 9 weights (model.layers.2.input_layernorm.weight, "),
        ("llama", {"attention_bias": True}, None, "lacks 8 weights (model.layers.0.self_attn.k_proj.bias, "),
        ("llama", {"num_hidden_layers": 1}, None, "holds 9 weights (model.layers.1.input_layernorm.weight, "),
        (
            "llama",
            {},
            lambda name, tensor: (name.replace("1.mlp", "1.moe"), tensor),
            "lacks 3 weights (model.layers.1.mlp.down_proj.weight",
        ),
        (
            "llama",
            {"intermediate_size": 24},
            None,
            "holds 6 weights (model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight, "
            "model.layers.0.mlp.up_proj.weight and 3 more) in another shape than its config.json asks for "
            "(model.layers.0.mlp.down_proj.weight: [16, 32], not [16, 24])",
        ),
        ("gpt2", {"n_positions": 100}, None, "holds 1 weight (transformer.wpe.weight) in another shape"),
        (
            "llama",
            {},
            lambda name, tensor: (name, tensor * float("nan") if "layers.1.mlp.up" in name else tensor),
            "the weight model.layers.1.mlp.up_proj.weight holds NaN or infinite values",
        ),
        (
            "llama",
            {},
            lambda name, tensor: (name, tensor / 0 if name == "model.norm.weight" else tensor),
            "the weight model.norm.weight holds NaN or infinite values",
        ),
        (
            "llama",
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            None,
            "holds quantised weights (gptq), which have no gradients, and no adapter whose tensors were trained over them; give the adapter",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_named(
    tmp_path: Path, kind: str, config: dict[str, object], change: Callable | None, said: str
) -> None:
    folder = save_tiny_model(tmp_path / "model", kind)
    configure(folder, **config)
    if change is not None:
        rewrite(folder, change)
    with pytest.raises(InputError) as error:
        load(folder)
    assert f"{folder}{': the' if said.startswith('the') else ''} {said.removeprefix('the ')}" in str(error.value)


def test_a_weight_that_overflows_its_type_is_infinite(folder: Path) -> None:
    rewrite(folder, lambda name, tensor: (name, tensor + 1e5 if name == "model.norm.weight" else tensor))
    assert load(folder).model.dtype == torch.float32
    with pytest.raises(InputError, match=r"model\.norm\.weight holds NaN or infinite values"):
        load(folder, "float16")


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000])
def test_a_cut_file_is_told(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        InputError, match=r"cannot be loaded by transformers \(SafetensorError.*\); correct .* save it anew"
    ):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named_before_anything_is_read(folder: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"
    (folder / name).write_text(pointer)
    hub = ModelHub(home=str(folder.parent), device="cpu", models=[])
    with pytest.raises(InputError, match=rf"{name} is a pointer of git-lfs .*; run `git lfs pull`"):
        hub.resolve(str(folder))


def test_a_missing_part_of_an_index_is_named(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    parts[1].unlink()
    with pytest.raises(InputError, match=parts[1].name):
        load(folder)


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("xlnet", "looks at tokens behind the one that it predicts from"),
        ("reformer", "gives other numbers for the same text each time"),
    ],
)
def test_what_no_next_token_loss_can_be_taken_of_is_refused(model_type: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_forward("m", tiny_model(model_type))


def test_a_model_that_goes_by_what_it_has_read_before_is_refused() -> None:
    model = tiny_model("llama")
    seen = [0]

    def scaled(module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        seen[0] = max(seen[0], out.shape[1])
        return out * (1 + 0.01 * seen[0])

    model.model.layers[0].mlp.register_forward_hook(scaled)
    with pytest.raises(InputError, match="gives other numbers for a short text when it has read a longer one"):
        check_forward("m", model)


def test_code_of_a_repositorys_own_is_neither_run_nor_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(
        folder, model_type="of_its_own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    )
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("whoever sits before the terminal was asked"))
    with pytest.raises(InputError, match="contains custom code"):
        load(folder)


def test_a_model_that_reads_both_ways_is_refused_and_its_decoder_is_not() -> None:
    with pytest.raises(InputError, match=r"looks at tokens behind .* \(or set is_decoder in its config.json\)"):
        check_forward("m", tiny_model("electra", is_decoder=False))
    check_forward("m", tiny_model("electra"))


def test_a_model_that_cannot_read_text_by_itself_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(5, 5)
    with pytest.raises(InputError, match=r"m cannot read a text by itself \(RuntimeError: mat1 and mat2 shapes"):
        check_forward("m", model)


def test_parts_for_images_are_no_components_and_texts_reach_all_others() -> None:
    model = tiny_model("gemma3")
    frozen = set(freeze_other_modalities(model))
    assert {name.split(".")[1] for name in frozen} == {"vision_tower", "multi_modal_projector"}
    model(input_ids=torch.arange(4, 30)[None]).logits.logsumexp(-1).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert reached.isdisjoint(frozen) and len(reached) > 20
    assert freeze_other_modalities(tiny_model("llama")) == []


def test_that_parts_for_images_are_left_out_is_said_when_a_model_is_loaded(tmp_path: Path) -> None:
    tiny_model("gemma3").save_pretrained(tmp_path)
    train_tokenizer().save_pretrained(tmp_path)
    hub, said = ModelHub(home=str(tmp_path), device="cpu", models=[]), []
    hub.load(str(tmp_path), hub.resolve(str(tmp_path)), said.append)
    assert [line for line in said if "weights for images or sound, which texts do not reach; they are left out" in line]
    names = {
        name
        for name, p in hub.skeleton(str(tmp_path), hub.resolve(str(tmp_path))).named_parameters()
        if p.requires_grad
    }
    assert names and not [name for name in names if "vision" in name]
