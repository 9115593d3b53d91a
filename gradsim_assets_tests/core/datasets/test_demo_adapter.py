"""The demo's adapter twin: the same in every process, over a base that has seen no original, and made again by retraining."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.evaluation.retraining import ORIGINAL, Start, losses_under
from gradsim_assets.core.evaluation.training_inputs import training_inputs
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.demo.adapter import ADAPTER_RECIPE, BASE, build_demo_adapter
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.fresh_process import said_by

SHORT = replace(ADAPTER_RECIPE, base=replace(ADAPTER_RECIPE.base, steps=4), steps=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_adapter(tmp_path_factory.mktemp("demo"), SHORT)


def loaded(folder: Path) -> LoadedModel:
    revision = resolve(str(folder))
    model, tokenizer = load_model(str(folder), revision, "float32", "cpu")
    return LoadedModel(model, ChatTokenizer(tokenizer), revision, "cpu")


def test_every_process_builds_the_same_adapter_and_base(folder: Path, tmp_path: Path) -> None:
    setup = (
        "from pathlib import Path\n"
        "from gradsim_assets.core.models.revisions import resolve\n"
        "from gradsim_assets_tests.core.datasets.test_demo_adapter import SHORT, build_demo_adapter"
    )
    built = f"resolve(str(build_demo_adapter(Path({str(tmp_path)!r}), SHORT))).name"
    assert said_by(setup, built, PYTHONHASHSEED="1").splitlines()[-1] == resolve(str(folder)).name
    assert build_demo_adapter(folder.parent, SHORT) == folder, "it is not built again"


def test_training_moves_the_adapter_towards_the_originals_and_leaves_its_base_alone(folder: Path) -> None:
    adapter = loaded(folder)
    assert adapter.revision.base == resolve(str(folder / BASE))
    components = dict(trainable_components(adapter.model))
    assert len(components) == 12 and all(weight.any() for weight in components.values())
    texts = [Sample(row["id"], *(m["content"] for m in row["messages"])) for row in load_originals()]
    samples = {ORIGINAL: [adapter.tokenizer.encode(one) for one in texts[:20]]}
    base, _ = load_model(str(folder / BASE), resolve(str(folder / BASE)), "float32", "cpu")
    with_it, without = (losses_under(model, samples, "cpu")[ORIGINAL] for model in (adapter.model, base))
    assert sum(with_it.values()) < sum(without.values()) - 0.05 * len(without)


def test_retraining_on_all_originals_gives_the_adapter_itself_to_the_last_bit(folder: Path) -> None:
    adapter = loaded(folder)
    frames = [
        sample_frame([Sample(row["id"], *(m["content"] for m in row["messages"])) for row in rows])
        for rows in (load_originals(), load_paraphrases())
    ]
    variants = dict.fromkeys(SETTINGS, frames[1])
    start = Start(str(folder), adapter.revision)
    training = training_inputs(SHORT.training, start, frames[0], variants, adapter, "auto")
    own = dict(trainable_components(adapter.model))
    again = dict(trainable_components(training.model(frozenset())))
    assert again.keys() == own.keys()
    assert all(torch.equal(weight, own[name]) for name, weight in again.items())
    others = dict(trainable_components(training.model(frozenset(training.ids[:50]))))
    assert not torch.equal(others[next(iter(own))], own[next(iter(own))])


def test_it_is_named_like_the_demos_model_wherever_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gradsim.toml").write_text('[[models]]\nid = "demo-lora"\ncontrols = true\n')
    monkeypatch.setenv("GRADSIM_CONFIG", str(tmp_path / "gradsim.toml"))
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path / "home"))
    settings = load_settings()
    assert settings.configured == ["demo-lora", "demo-lora+untrained"]
    assert settings.training_of("demo-lora") == ADAPTER_RECIPE.training
    assert settings.training_of("demo-lora+untrained") is None
    resources(settings).hub.check("demo-lora+untrained")
    assert not (tmp_path / "home/models").exists(), "nothing is built before it is needed"
