"""Gradients of originals that outlive a process, and files that are not believed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tracing.held_originals import HeldOriginals
from gradsim_assets.core.tracing.kept_gradients import KeptGradients
from gradsim_assets_tests.support.tiny_models import load_tiny_model

TEXTS = [Sample("a", "Why?", "So that it is."), Sample("b", "How does tea brew?", "Slowly."), Sample("c", "Who?", "I.")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def samples(loaded: LoadedModel) -> list[EncodedSample]:
    return [loaded.tokenizer.encode(one) for one in TEXTS]


@pytest.fixture
def held(loaded: LoadedModel, samples: list[EncodedSample]) -> HeldOriginals:
    return HeldOriginals.of(loaded.model, samples, PassOptions())


def test_what_is_kept_is_read_again_to_the_bit(
    loaded: LoadedModel, samples: list[EncodedSample], held: HeldOriginals, tmp_path: Path
) -> None:
    kept = KeptGradients(tmp_path / "folder", "key")
    assert kept.read(loaded.model, samples, "cpu") is None, "nothing is there yet"
    kept.write(held, loaded.model)
    found = kept.read(loaded.model, samples, "cpu")
    assert found is not None and found.names == held.names
    assert all(torch.equal(one, other) for one, other in zip(found.rows, held.rows, strict=True))
    assert KeptGradients(tmp_path / "folder", "other").read(loaded.model, samples, "cpu") is None
    KeptGradients(tmp_path / "folder", "other").write(held, loaded.model)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["other.safetensors"], "one key a folder"


def _change(file: Path, change) -> None:
    tensors = load_file(file)
    save_file(change({name: one.clone() for name, one in tensors.items()}), file)


def _other_order(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: rows.flip(0).contiguous() for name, rows in tensors.items()}


def _one_component(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name in tensors if "mlp" in name)
    return {**tensors, name: tensors[name] * (1 + 1e-3)}


def _unknown(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(rows, torch.nan) for name, rows in tensors.items()}


def _fewer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: rows[:2].contiguous() for name, rows in tensors.items()}


@pytest.mark.parametrize("change", [_other_order, _one_component, _unknown, _fewer])
def test_a_file_that_holds_others_is_not_believed(
    change, loaded: LoadedModel, samples: list[EncodedSample], held: HeldOriginals, tmp_path: Path
) -> None:
    said: list[str] = []
    kept = KeptGradients(tmp_path, "key", said.append)
    kept.write(held, loaded.model)
    _change(tmp_path / "key.safetensors", change)
    assert kept.read(loaded.model, samples, "cpu") is None
    assert len(said) == 1 and "does not hold the gradients of these originals" in said[0]


def test_a_cut_file_counts_as_none(
    loaded: LoadedModel, samples: list[EncodedSample], held: HeldOriginals, tmp_path: Path
) -> None:
    kept = KeptGradients(tmp_path, "key")
    kept.write(held, loaded.model)
    file = tmp_path / "key.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert kept.read(loaded.model, samples, "cpu") is None


def test_a_place_that_cannot_be_written_costs_no_trace(
    loaded: LoadedModel, held: HeldOriginals, tmp_path: Path
) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("")
    KeptGradients(tmp_path / "file" / "folder", "key", said.append).write(held, loaded.model)
    assert len(said) == 1 and said[0].startswith("gradients of the originals are not kept for the next process: ")


def test_gradients_that_could_not_be_checked_are_not_kept(
    loaded: LoadedModel, held: HeldOriginals, tmp_path: Path
) -> None:
    narrow = LoadedModel(loaded.model, loaded.tokenizer, loaded.revision, "cpu").model
    narrow.to(torch.bfloat16)
    try:
        KeptGradients(tmp_path, "key").write(held, narrow)
    finally:
        narrow.to(torch.float32)
    assert not list(tmp_path.iterdir())
