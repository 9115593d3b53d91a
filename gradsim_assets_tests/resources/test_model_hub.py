"""Models with their settings: how they are loaded, and what is said where something about them is wrong."""

import json
from pathlib import Path

import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def hub(home: Path, **settings: object) -> ModelHub:
    return ModelHub(home=str(home), device="cpu", models=[settings] if settings else [])


def without(folder: Path, token: str) -> None:
    """Takes a special token out of a saved tokenizer."""
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), token: None}))


def test_a_folder_is_loaded_with_its_settings(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama")
    models = hub(tmp_path, id=str(folder), dtype="bfloat16")
    loaded = models.load(str(folder), models.resolve(str(folder)))
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert loaded.tokenizer.template == "tulu"


def test_a_folder_that_changes_during_a_run_is_noticed(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    name = hub(tmp_path).resolve(str(folder)).name
    assert hub(tmp_path).revision_named(str(folder), name).name == name
    save_tiny_model(folder, seed=1)
    with pytest.raises(InputError, match="changed while this run worked on it"):
        hub(tmp_path).revision_named(str(folder), name)


def test_a_tokenizer_without_eos_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    without(folder, "eos_token")
    models = hub(tmp_path)
    with pytest.raises(InputError, match="has no EOS token, so an answer has no end; set eos_token"):
        models.load(str(folder), models.resolve(str(folder)))


def test_a_missing_pad_token_is_said_and_made_up_for(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    without(folder, "pad_token")
    models, said = hub(tmp_path), []
    tokenizer = models.load(str(folder), models.resolve(str(folder)), said.append).tokenizer.tokenizer
    assert "has no pad token; its EOS token fills up batches instead" in said[0]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_control_has_the_settings_of_its_model_unless_it_is_listed_itself(tmp_path: Path) -> None:
    tuned = {"id": "org/tuned", "base": "org/base", "dtype": "bfloat16", "candidates": 7, "profile": "large"}
    models = ModelHub(home=str(tmp_path), device="cpu", models=[tuned, {"id": "org/listed"}])
    for control in ("org/tuned+untrained", "org/base", "org/base+untrained"):
        found = models.settings(control)
        assert (found.id, found.dtype, found.candidates, found.profile) == (control, "bfloat16", 7, "large")
        assert not found.base and not found.controls
    assert models.settings("org/listed+untrained").dtype == "float32"
    alone = ModelHub(home=str(tmp_path), device="cpu", models=[tuned, {"id": "org/base", "dtype": "float16"}])
    assert alone.settings("org/base").dtype == "float16"


def test_a_control_is_loaded_with_random_weights_until_its_configuration_changes(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    models, control = hub(tmp_path), f"{folder}+untrained"
    name = models.resolve(control).name
    save_tiny_model(folder, seed=1)
    assert models.revision_named(control, name).name == name, "other weights are nothing to it"
    loaded = models.load(control, models.resolve(control))
    assert loaded.revision.seed is not None and loaded.tokenizer.template == "tulu"
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "initializer_range": 0.5}))
    with pytest.raises(InputError, match="changed while this run worked on it"):
        models.revision_named(control, name)
