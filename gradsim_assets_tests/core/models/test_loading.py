"""Loading one exact revision, from folders and from a hub on loopback, and what is told of models that do not load."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.loading import LoadedModel, load_model, load_skeleton, load_tokenizer
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def load(folder: Path) -> Any:
    return load_model(str(folder), resolve(str(folder)), "float32", "cpu")[0]


def loaded(folder: Path, model: Any) -> LoadedModel:
    revision = resolve(str(folder))
    return LoadedModel(model, ChatTokenizer(load_tokenizer(str(folder), revision)), revision, "cpu")


@pytest.mark.parametrize(("kind", "ends"), [("olmo", False), ("llama", False), ("gpt2", True)])
def test_the_context_and_where_positions_end_are_found_with_or_without_weights(
    kind: str, ends: bool, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / "model", kind, positions=96)
    for model in (load(folder), load_skeleton(str(folder), resolve(str(folder)))):
        found = loaded(folder, model)
        assert (found.max_positions, found.generation_positions) == (96, 96)
        assert found.takes(96) and found.takes(97) is not ends


def test_a_model_without_a_context_answers_up_to_where_it_goes(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "gpt2", positions=96)
    unnamed = load(folder)
    unnamed.config.n_positions = -1
    found = loaded(folder, unnamed)
    assert (found.max_positions, found.generation_positions) == (None, 96)


def test_a_skeleton_has_names_and_shapes_without_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    skeleton, whole = load_skeleton(str(folder), resolve(str(folder))), load(folder)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (skeleton, whole)]
    assert shapes[0] == shapes[1]


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a BertForMaskedLM, not a causal language model"):
        load(tmp_path)


def test_a_folder_that_transformers_cannot_make_out_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(InputError, match="cannot be loaded by transformers"):
        load(folder)


def loaded_from_hub(repo: str, commit: str, cache: Path, hub: HubServer) -> str:
    """What a fresh process says of the sum of a model's head, at a commit."""
    setup = (
        "from gradsim_assets.core.models.loading import load_model\n"
        "from gradsim_assets.core.models.revisions import Revision"
    )
    model = f"load_model({repo!r}, Revision({commit!r}, {repo!r}, {commit!r}), 'float32', 'cpu')[0]"
    return said_by(setup, f"{model}.lm_head.weight.double().sum().item()", HF_HOME=str(cache), **hub.environment)


def test_a_model_of_the_hub_is_loaded_at_its_commit_whatever_the_head_is(tmp_path: Path) -> None:
    folders = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    with HubServer() as hub:
        commits = [hub.push("org/c", folder) for folder in folders]
        sums = [loaded_from_hub("org/c", commit, tmp_path / "cache", hub) for commit in commits]
    assert sums == [f"{load(folder).lm_head.weight.double().sum().item()}\n" for folder in folders]
    assert sums[0] != sums[1]


def test_what_a_busy_hub_does_not_hand_out_is_worth_another_try(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with HubServer() as hub:
        commit = hub.push("org/model", tmp_path / "empty")
        said = loaded_from_hub("org/model", commit, tmp_path / "missing", hub)
        assert "InputError org/model cannot be loaded by transformers" in said  # every file: 404
        hub.files_busy = True
        said = loaded_from_hub("org/model", commit, tmp_path / "busy", hub)
        assert "ServiceError org/model could not be fetched from the hub" in said
