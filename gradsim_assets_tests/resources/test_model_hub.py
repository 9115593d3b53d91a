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
