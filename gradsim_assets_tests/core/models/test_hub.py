"""Models from folders and from a hub on loopback: revisions, loading, and the sentences for what is wrong."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from gradsim_assets.core.errors import InputError
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub(home: Path, **settings: object) -> ModelHub:
    return ModelHub(home=str(home), device="cpu", models=[settings] if settings else [])


def test_a_folder_is_loaded_with_its_settings(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama")
    models = hub(tmp_path, id=str(folder), dtype="bfloat16")
    loaded = models.load(str(folder), models.resolve(str(folder)))
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert loaded.max_positions == 512 and not loaded.learned_positions
    assert loaded.tokenizer.template == "tulu"


def test_learned_positions_are_noticed(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "gpt2")
    models = hub(tmp_path)
    assert models.load(str(folder), models.resolve(str(folder))).learned_positions


def test_the_revision_of_a_folder_is_its_content(tmp_path: Path) -> None:
    first, again, other = (save_tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    names = [hub(tmp_path).resolve(str(folder)).name for folder in (first, again, other)]
    assert names[0] == names[1] != names[2]
    (first / "training.log").write_text("a log is no part of the model")
    assert hub(tmp_path).resolve(str(first)).name == names[0]


def test_a_folder_that_changes_during_a_run_is_noticed(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    name = hub(tmp_path).resolve(str(folder)).name
    assert hub(tmp_path).revision_named(str(folder), name).name == name
    save_tiny_model(folder, seed=1)
    with pytest.raises(InputError, match="changed while this run worked on it"):
        hub(tmp_path).revision_named(str(folder), name)


def test_a_skeleton_has_names_and_shapes_without_weights(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    models = hub(tmp_path)
    revision = models.resolve(str(folder))
    skeleton, whole = models.skeleton(str(folder), revision), models.load(str(folder), revision).model
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (skeleton, whole)]
    assert shapes[0] == shapes[1]


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no model folder"):
        hub(tmp_path).resolve(str(tmp_path))


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    models = hub(tmp_path)
    with pytest.raises(InputError, match="is a BertForMaskedLM, not a causal language model"):
        models.load(str(tmp_path), models.resolve(str(tmp_path)))


def test_a_tokenizer_without_eos_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": None}))
    models = hub(tmp_path)
    with pytest.raises(InputError, match="has no EOS token, so an answer has no end; set eos_token"):
        models.load(str(folder), models.resolve(str(folder)))


def test_a_missing_pad_token_is_said_and_made_up_for(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": None}))
    models, said = hub(tmp_path), []
    tokenizer = models.load(str(folder), models.resolve(str(folder)), said.append).tokenizer.tokenizer
    assert "has no pad token; its EOS token fills up batches instead" in said[0]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    models = hub(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded by transformers"):
        models.load(str(folder), models.resolve(str(folder)))


class _Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that tells a model's commit."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/busy/"):
            self._answer(503, {})
            return
        path = self.path.removeprefix("/api/models/").split("?")[0]
        if path in ("org/model", "org/model/revision/v1"):
            self._answer(200, {"id": "org/model", "sha": COMMIT, "siblings": []})
        elif path.startswith("org/model/"):
            self._answer(404, {}, "RevisionNotFound")
        elif path == "org/gated":
            self._answer(403, {}, "GatedRepo")
        elif path == "org/private":
            self._answer(401, {}, "Unauthorized")
        elif path == "org/broken":
            self._answer(500, {})
        elif path == "org/busy":
            self._answer(429, {})
        else:
            self._answer(404, {}, "RepoNotFound")

    def _answer(self, status: int, body: dict, code: str | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def resolve(model: str, home: Path, fallback: bool = True, **environment: str) -> str:
    """What a fresh process prints of a model's revision: the hub client reads its environment when it is imported."""
    return said(f"hub.resolve({model!r}, fallback={fallback})", home, **environment)


def load(model: str, home: Path, **environment: str) -> str:
    """What a fresh process prints when it loads a model at a commit."""
    return said(f"hub.load({model!r}, Revision({COMMIT!r}, {model!r}, {COMMIT!r}))", home, **environment)


def said(expression: str, home: Path, **environment: str) -> str:
    code = f"""
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.core.models.revisions import Revision
hub = ModelHub(home=".", device="cpu", models=[])
try:
    print({expression})
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("org/model", f"Revision(name='{COMMIT}', source='org/model', commit='{COMMIT}')"),
        ("org/model@v1", f"Revision(name='{COMMIT}', source='org/model', commit='{COMMIT}')"),
        ("org/model@v2", "InputError org/model has no revision v2 on the hub"),
        ("org/none", "InputError there is no model org/none on the hub"),
        ("org/gated", "InputError org/gated is gated on the hub; accept its terms there and set HF_TOKEN"),
        ("org/private", "InputError the hub refuses org/private (HfHubHTTPError: Client error '401 Unauthorized'"),
        ("org/broken", "ServiceError the hub cannot be asked for org/broken (HfHubHTTPError: Server error '500"),
        ("org/busy", "ServiceError the hub cannot be asked for org/busy (HfHubHTTPError: 429 Too Many Requests"),
    ],
)
def test_the_hub_is_asked_for_the_commit(model: str, said: str, endpoint: str, tmp_path: Path) -> None:
    assert said in resolve(model, tmp_path, HF_ENDPOINT=endpoint)


def test_without_a_network_a_model_must_be_in_the_cache(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set; download it first" in resolve("org/model", tmp_path, HF_HUB_OFFLINE="1")
    snapshots = tmp_path / "hub/models--org--model"
    (snapshots / "snapshots" / COMMIT).mkdir(parents=True)
    (snapshots / "snapshots" / COMMIT / "config.json").write_text("{}")
    (snapshots / "refs").mkdir()
    (snapshots / "refs/main").write_text(COMMIT)
    assert f"commit='{COMMIT}'" in resolve("org/model", tmp_path, HF_HUB_OFFLINE="1")
    (snapshots / "refs/main").unlink()  # a model that was only ever loaded by its commit
    assert f"commit='{COMMIT}'" in resolve("org/model", tmp_path, HF_HUB_OFFLINE="1")
    nobody = "http://127.0.0.1:9"  # the discard port: refused at once
    assert f"commit='{COMMIT}'" in resolve("org/model", tmp_path, HF_ENDPOINT=nobody)
    assert "ServiceError the hub cannot be asked for org/other (ConnectError:" in resolve(
        "org/other", tmp_path, HF_ENDPOINT=nobody
    )
    assert "ServiceError the hub cannot be asked for org/model" in resolve(
        "org/model", tmp_path, fallback=False, HF_ENDPOINT=nobody
    )


def test_a_model_of_the_hub_is_loaded_at_its_commit_whatever_the_head_is(tmp_path: Path) -> None:
    hub = HubServer()
    first = hub.push("org/c", save_tiny_model(tmp_path / "first", seed=1))
    second = hub.push("org/c", save_tiny_model(tmp_path / "second", seed=2))
    code = "hub.load('org/c', hub.revision_named('org/c', {!r})).model.lm_head.weight.double().sum().item()"
    sums = [said(code.format(sha), tmp_path / "cache", **hub.environment) for sha in (first, second)]
    hub.close()
    folders = ModelHub(home=str(tmp_path), device="cpu", models=[])
    expected = []
    for name in ("first", "second"):
        folder = str(tmp_path / name)
        model = folders.load(folder, folders.resolve(folder)).model
        expected.append(f"{model.lm_head.weight.double().sum().item()}\n")
    assert sums == expected and sums[0] != sums[1]


def test_what_a_busy_hub_does_not_hand_out_is_worth_another_try(endpoint: str, tmp_path: Path) -> None:
    # The hub knows the commit, and every file of it is answered with 404 (bad input) or 503 (a hiccup).
    assert "InputError org/model cannot be loaded by transformers" in load("org/model", tmp_path, HF_ENDPOINT=endpoint)
    said = load("org/model", tmp_path, HF_ENDPOINT=f"{endpoint}/busy")
    assert "ServiceError org/model could not be fetched from the hub" in said
