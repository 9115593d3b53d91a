"""Revisions of folders and of a hub on loopback, and the sentences for what is wrong with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def asked(model: str, home: Path, fallback: bool = True, **environment: str) -> str:
    """What a fresh process says of a model's revision."""
    setup = "from gradsim_assets.core.models.revisions import resolve"
    return said_by(setup, f"resolve({model!r}, fallback={fallback})", HF_HOME=str(home), **environment)


def test_the_revision_of_a_folder_is_its_content(tmp_path: Path) -> None:
    first, again, other = (save_tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    names = [resolve(str(folder)).name for folder in (first, again, other)]
    assert names[0] == names[1] != names[2]
    (first / "training.log").write_text("a log is no part of the model")
    assert resolve(str(first)).name == names[0]


@pytest.mark.parametrize(
    "name",
    ["trainer_state.json", "eval_results.json", "training_args.bin", "optimizer.bin", "scheduler.bin", "rng_state.pth"],
)
def test_what_a_trainer_leaves_beside_a_model_is_no_revision(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    before = resolve(str(tmp_path)).name
    (tmp_path / name).write_text("{}")
    assert resolve(str(tmp_path)).name == before
    (tmp_path / "pytorch_model.bin").write_bytes(b"others!")
    assert resolve(str(tmp_path)).name != before


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no model folder"):
        resolve(str(tmp_path))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A model with a tag, and others that are not to be had for one reason or another."""
    with HubServer() as hub:
        hub.push("org/model", tmp_path_factory.mktemp("model"), tag="v1")
        hub.refuse("org/gated", 403, "GatedRepo")
        hub.refuse("org/private", 401, "Unauthorized")
        hub.refuse("org/broken", 500)
        hub.refuse("org/busy", 429)
        yield hub


@pytest.mark.parametrize("model", ["org/model", "org/model@v1"])
def test_the_hub_is_asked_for_the_commit(model: str, hub: HubServer, tmp_path: Path) -> None:
    commit = hub.push("org/model", tmp_path, tag="v1")
    assert f"Revision(name='{commit}', source='org/model', commit='{commit}', seed=None, base=None)" in asked(
        model, tmp_path, **hub.environment
    )


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("org/model@v2", "InputError org/model has no revision v2 on the hub"),
        ("org/none", "InputError there is no model org/none on the hub"),
        ("org/gated", "InputError org/gated is gated on the hub; accept its terms there and set HF_TOKEN"),
        ("org/private", "InputError the hub refuses org/private (HfHubHTTPError: Client error '401 Unauthorized'"),
        ("org/broken", "ServiceError the hub cannot be asked for org/broken (HfHubHTTPError: Server error '500"),
        ("org/busy", "ServiceError the hub cannot be asked for org/busy (HfHubHTTPError: 429 Too Many Requests"),
    ],
)
def test_what_the_hub_does_not_have_or_give_is_told(model: str, sentence: str, hub: HubServer, tmp_path: Path) -> None:
    assert sentence in asked(model, tmp_path, **hub.environment)


def test_without_a_network_a_model_must_be_in_the_cache(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE is set; download it first" in asked("org/model", tmp_path, HF_HUB_OFFLINE="1")
    snapshots = tmp_path / "hub/models--org--model"
    (snapshots / "snapshots" / COMMIT).mkdir(parents=True)
    (snapshots / "snapshots" / COMMIT / "config.json").write_text("{}")
    (snapshots / "refs").mkdir()
    (snapshots / "refs/main").write_text(COMMIT)
    assert f"commit='{COMMIT}'" in asked("org/model", tmp_path, HF_HUB_OFFLINE="1")
    (snapshots / "refs/main").unlink()  # a model that was only ever loaded by its commit
    assert f"commit='{COMMIT}'" in asked("org/model", tmp_path, HF_HUB_OFFLINE="1")
    nobody = "http://127.0.0.1:9"  # the discard port: refused at once
    assert f"commit='{COMMIT}'" in asked("org/model", tmp_path, HF_ENDPOINT=nobody)
    assert "ServiceError the hub cannot be asked for org/other (ConnectError:" in asked(
        "org/other", tmp_path, HF_ENDPOINT=nobody
    )
    assert "ServiceError the hub cannot be asked for org/model" in asked(
        "org/model", tmp_path, fallback=False, HF_ENDPOINT=nobody
    )
