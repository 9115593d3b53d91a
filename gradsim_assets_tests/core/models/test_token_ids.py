"""Prompts cut by a model's tokenizer: from folders and from a hub on loopback, without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gradsim_assets.core.candidates.bm25 import Index
from gradsim_assets.core.errors import InputError
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model

TEXTS = [
    "How do I make bread?",
    "富士山の高さを教えてください。",
    "  two  spaces\nand <|user|> a turn",
    "é e\u0301",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(tmp_path: Path) -> ModelHub:
    return ModelHub(home=str(tmp_path), device="cpu", models=[])


def test_token_ids_are_those_of_transformers(hub: ModelHub, folder: Path) -> None:
    tokens, name = hub.retriever_tokens(str(folder))
    reference = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert tokens(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert name == f"{folder} {hub.resolve(str(folder)).name}"


def test_white_space_needs_no_model(hub: ModelHub) -> None:
    tokens, name = hub.retriever_tokens(None)
    assert (tokens("a  b\nc"), name) == (["a", "b", "c"], "whitespace")


def test_no_text_is_cut_short_or_filled_up_by_what_the_tokenizer_was_saved_with(
    hub: ModelHub, folder: Path, tmp_path: Path
) -> None:
    short = shutil.copytree(folder, tmp_path / "short")
    file = short / "tokenizer.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>"}
    saved["padding"] = {"strategy": {"Fixed": 64}, **padding}
    file.write_text(json.dumps(saved), encoding="utf-8")
    (tokens, _), (expected, _) = (hub.retriever_tokens(str(place)) for place in (short, folder))
    assert [tokens(text) for text in TEXTS] == [expected(text) for text in TEXTS]


def test_japanese_prompts_get_scores_from_the_tokens_of_a_model(hub: ModelHub, folder: Path) -> None:
    originals = ["富士山の高さを教えてください。", "おいしい味噌汁の作り方は？", "猫が夜に鳴くのはなぜですか。"]
    question = "富士山はどのくらいの高さですか。"
    assert Index(originals).scores(question).tolist() == [0.0, 0.0, 0.0]
    scores = Index(originals, hub.retriever_tokens(str(folder))[0]).scores(question)
    assert scores.argmax() == 0 and scores[0] > 0


def test_a_model_without_a_fast_tokenizer_is_named(hub: ModelHub, folder: Path, tmp_path: Path) -> None:
    slow = shutil.copytree(folder, tmp_path / "slow")
    (slow / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"slow has no tokenizer.json, .*name another model as data.retriever_model"):
        hub.retriever_tokens(str(slow))
    (slow / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json of .*slow cannot be read"):
        hub.retriever_tokens(str(slow))


def printed(code: str, home: Path, **environment: str) -> str:
    """What a fresh process prints: the hub's client reads its environment when it is imported."""
    run = subprocess.run(
        [sys.executable, "-c", f"from gradsim_assets.resources.model_hub import ModelHub\nimport sys\n{code}"],
        env={**os.environ, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_the_hub_gives_the_tokenizer_alone_and_torch_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    server = HubServer()
    commit = server.push("org/model", folder)
    code = """
tokens, name = ModelHub(home=".", device="cpu", models=[]).retriever_tokens("org/model")
print(name, len(tokens("How do I make bread?")) > 3, {"torch", "transformers"} & set(sys.modules))
"""
    try:
        assert printed(code, tmp_path, **server.environment) == f"org/model {commit} True set()"
    finally:
        server.close()
    fetched = [path.name for path in (tmp_path / "hub").rglob("*") if path.is_symlink()]
    assert fetched == ["tokenizer.json"], "no weights"


def test_a_repository_without_a_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    server = HubServer()
    server.push("org/bare", bare)
    code = """
try:
    ModelHub(home=".", device="cpu", models=[]).retriever_tokens("org/bare")
except Exception as error:
    print(type(error).__name__, error)
"""
    try:
        said = printed(code, tmp_path / "cache", **server.environment)
    finally:
        server.close()
    assert said.startswith(
        "InputError org/bare has no tokenizer.json, so its tokenizer cannot cut the prompts for BM25"
    )
