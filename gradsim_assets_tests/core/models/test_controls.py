"""Controls: random weights that are the same in every process, and a revision that follows what they are made of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.controls import UNTRAINED_SEED
from gradsim_assets.core.models.loading import load_config, load_model
from gradsim_assets.core.models.revisions import resolve, untrained_revision
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def control_of(folder: Path, dtype: str = "float32") -> Any:
    """The untrained control of a folder, loaded anew."""
    load_model.cache_clear()
    return load_model(f"{folder}+untrained", untrained_revision(resolve(str(folder))), dtype, "cpu")[0]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["olmo", "llama", "gpt2"])
def test_weights_are_drawn_as_the_models_class_draws_them_by_a_seed_of_ours(kind: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        drawn = weights(AutoModelForCausalLM.from_config(load_config(str(folder), resolve(str(folder)))))
    state = torch.random.get_rng_state()
    control = weights(control_of(folder))
    assert torch.equal(torch.random.get_rng_state(), state), (
        "the random numbers of the process go on as they would have"
    )
    stored = weights(load_model(str(folder), resolve(str(folder)), "float32", "cpu")[0])
    assert control.keys() == drawn.keys() == stored.keys()
    assert all(torch.equal(control[name], drawn[name]) for name in drawn)
    assert any(not torch.equal(control[name], stored[name]) for name in stored)


def test_no_file_of_weights_is_needed_and_the_end_tokens_are_the_models(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    before = weights(control_of(folder))
    (folder / "model.safetensors").unlink()
    GenerationConfig(eos_token_id=[0, 7]).save_pretrained(folder)
    control = control_of(folder)
    assert control.generation_config.eos_token_id == [0, 7]
    assert all(torch.equal(before[name], weight) for name, weight in weights(control).items())
    assert not control.training
    assert control_of(folder, "bfloat16").dtype == torch.bfloat16


def test_the_revision_follows_configuration_and_tokenizer_and_no_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", seed=0)

    def name() -> str:
        return untrained_revision(resolve(str(folder))).name

    first = name()
    assert first != resolve(str(folder)).name
    save_tiny_model(folder, seed=1)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    (folder / "trainer_state.json").write_text("{}")
    assert name() == first
    for file in ("config.json", "tokenizer.json"):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), "edited": True}))
        assert name() != first
        first = name()


def test_a_folder_of_the_same_name_as_a_control_is_told(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    shutil.copytree(folder, tmp_path / "model+untrained")
    with pytest.raises(InputError, match=r"model\+untrained is a folder, and also the id of the control of .*; rename"):
        untrained_revision(resolve(str(folder)))


SETUP = (
    "from gradsim_assets.resources.model_hub import ModelHub\nhub = ModelHub(home='/nowhere', device='cpu', models=[])"
)


def test_the_control_of_a_model_on_the_hub_needs_none_of_its_weights(tmp_path: Path) -> None:
    model = "org/model+untrained"
    drawn = f"hub.load({model!r}, hub.resolve({model!r})).model.lm_head.weight.double().sum().item()"
    folders = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    (folders[1] / "README.md").write_text("no part of a model")
    names = []
    with HubServer() as server:
        environment = {"HF_HOME": str(tmp_path / "cache"), **server.environment}
        for folder in folders:
            server.push("org/model", folder)
            names.append(said_by(SETUP, f"hub.resolve({model!r}).name", **environment).splitlines()[-1])
        said = said_by(SETUP, drawn, **environment).splitlines()[-1]
        server.files_busy = True
        busy = said_by(SETUP, f"hub.resolve({model!r})", **{**environment, "HF_HOME": str(tmp_path / "empty")})
    assert names[0] == names[1] == untrained_revision(resolve(str(folders[0]))).name
    assert float(said) == control_of(folders[0]).lm_head.weight.double().sum().item()
    cached = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert {"config.json", "tokenizer.json"} <= cached and not cached & {"model.safetensors", "README.md"}
    offline = said_by(SETUP, f"hub.resolve({model!r}).name", HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert offline.splitlines()[-1] == names[0]
    assert "ServiceError the configuration of org/model could not be fetched from the hub" in busy
