"""Checkpoints of a run as models: their names and steps, in folders and on a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.trajectories import checkpoint_of, checkpoints, step_of
from gradsim_assets.core.partition_keys import keys_pattern, model_id_of, model_slug
from gradsim_assets.orchestration.controls import control_keys
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.mark.parametrize(
    ("name", "pattern", "step"),
    [
        ("checkpoint-40", "checkpoint-*", 40),
        ("checkpoint-best", "checkpoint-*", None),
        ("step1000-tokens4B", "step*", 1000),
        ("stage1-step0050-unsharded", "stage1-step*", 50),
        ("stage2-step50", "stage1-step*", None),
        ("stage2-step50", "stage?-step*", 50),
        ("1000", "*", 1000),
        ("v2-step-7", "*step-*", None),  # whether 2 or 7 is the step is nobody's guess
        ("step-7", "step-7", None),
        ("main", "step-*", None),
    ],
)
def test_the_step_is_the_number_in_the_place_of_the_first_star(name: str, pattern: str, step: int | None) -> None:
    assert step_of(name, pattern) == step


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with three checkpoints, a folder that is no model, and a copy of one without a step."""
    folder = tmp_path_factory.mktemp("at@home") / "run"
    for step in (100, 20, 3):
        save_tiny_model(folder / f"checkpoint-{step}", seed=step)
    save_tiny_model(folder / "checkpoint-best")
    (folder / "checkpoint-4").mkdir()
    return folder


def test_checkpoints_of_a_folder_are_models_in_the_order_of_their_steps(run: Path) -> None:
    found = checkpoints(str(run), "checkpoint-*")
    assert [(one.name, one.step) for one in found] == [(f"checkpoint-{n}", n) for n in (3, 20, 100)]
    for one in found:
        assert one.model_id == f"{run}@{one.name}"
        assert resolve(one.model_id) == resolve(str(run / one.name)), "the same model as by its folder's own path"
        assert model_id_of(model_slug(one.model_id)) == one.model_id
        assert checkpoint_of(one.model_id, {str(run): "checkpoint-*"}) == one
    assert checkpoint_of(f"{run}@other-3", {str(run): "checkpoint-*"}) is None
    assert checkpoint_of(str(run), {str(run): "checkpoint-*"}) is None


def test_what_has_no_checkpoints_or_two_of_one_step_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no folder of a model in it has a name .* fits checkpoints = "step-\\*"'):
        checkpoints(str(run), "step-*")
    with pytest.raises(InputError, match=r"there is no folder .*/none"):
        checkpoints(str(tmp_path / "none"), "checkpoint-*")
    for name in ("checkpoint-7", "checkpoint-007"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="checkpoint-007 and checkpoint-7 are both of step 7"):
        checkpoints(str(tmp_path), "checkpoint-*")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer() as hub:
        for step in (1000, 200):
            hub.push("org/run", save_tiny_model(tmp_path_factory.mktemp("model"), seed=step), tag=f"step-{step}")
        hub.refuse("org/gated", 403, "GatedRepo")
        hub.refuse("org/busy", 503)
        yield hub


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("org/run", "['org/run@step-200', 'org/run@step-1000']"),
        ("org/none", "InputError there is no model org/none on the hub"),
        ("org/gated", "InputError org/gated is gated on the hub"),
        ("org/busy", "ServiceError the hub cannot be asked for org/busy"),
    ],
)
def test_branches_and_tags_of_the_hub_are_checkpoints(repo: str, said: str, hub: HubServer, tmp_path: Path) -> None:
    setup = "from gradsim_assets.core.models.trajectories import checkpoints"
    expression = f"[one.model_id for one in checkpoints({repo!r}, 'step-*')]"
    assert said_by(setup, expression, HF_HOME=str(tmp_path), **hub.environment).startswith(said)


def settings_of(folder: Path, text: str):
    (folder / "gradsim.toml").write_text(text)
    return load_settings({"GRADSIM_CONFIG": str(folder / "gradsim.toml"), "GRADSIM_HOME": str(folder)})


def test_a_checkpoint_has_the_settings_of_its_run_and_the_optimizer_state_of_its_folder(
    run: Path, tmp_path: Path
) -> None:
    settings = settings_of(
        tmp_path,
        f'[training]\nepochs = 2\n[[models]]\nid = "{run}"\ncheckpoints = "checkpoint-*"\ndtype = "bfloat16"\nbase = "org/base"\n'
        'profile = "cpu"\noptimizer_state = "optimizer.pt"\n'
        f'[[models]]\nid = "{run}@checkpoint-20"\ntraining = {{ steps = 20 }}\n',
    )
    hub, first, own = resources(settings).hub, f"{run}@checkpoint-3", f"{run}@checkpoint-20"
    assert hub.checkpoints(str(run)) == [first, own, f"{run}@checkpoint-100"]
    found = hub.settings(first)
    assert (found.dtype, found.base, found.checkpoints) == ("bfloat16", "org/base", "")
    assert found.optimizer_state == str(run / "checkpoint-3" / "optimizer.pt")
    assert hub.settings(own).dtype == "float32", "an entry of its own counts alone"
    assert hub.settings(f"{first}+untrained").dtype == "bfloat16"
    assert settings.controls_of(first) == [f"{first}+untrained", "org/base"]
    assert settings.training_of(first) is None, "the recipe of a whole training is not that of a part of it"
    assert settings.training_of(own) is not None
    assert settings.configured == [own], "the run is no model"
    shuffled = [f"{run}@checkpoint-100", "z/z", first, own, "a/a"]
    assert settings.ordered(shuffled) == [first, own, f"{run}@checkpoint-100", "a/a", "z/z"]
    bases = {keys_pattern(one.id, one.checkpoints): model_slug(one.base) for one in settings.models if one.base}
    assert control_keys(model_slug(first), bases) == [model_slug(f"{first}+untrained"), "org--base"]
    assert control_keys("org--other", bases) == ["org--other+untrained"]
    pattern = f"{model_slug(str(run))}@checkpoint-*"
    assert settings.keys_of(settings.models[0]) == [pattern, "org--base", f"{pattern}+untrained"]
    with pytest.raises(InputError, match="is a run with checkpoints, not one model"):
        hub.resolve(str(run))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ('id = "demo"\ncheckpoints = "step-*"', "demo is no training run and has no checkpoints"),
        ('id = "a/b"\ncheckpoints = "step-*"\ncontrols = true', "controls of a/b is that of one model"),
        ('id = "a/b"\ncheckpoints = "step-*"\ntraining = { epochs = 2 }', "training of a/b is that of one model"),
        (
            'id = "a/b"\ncheckpoints = "step-*"\noptimizer_state = "optimizer.pt"',
            "which branches and tags of the hub do not",
        ),
        ('id = "a/b"\ncheckpoints = "../step-*"', "models.0.checkpoints = '../step-*' is not accepted"),
    ],
)
def test_what_only_one_model_can_have_is_refused_of_a_run(entry: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        settings_of(tmp_path, f"[[models]]\n{entry}\n")
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
