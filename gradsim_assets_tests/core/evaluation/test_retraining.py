"""Models made again without some of their originals: which bits come out, and that none is made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from gradsim_assets.core.evaluation.one_step import precise_loss
from gradsim_assets.core.evaluation.retraining import ORIGINAL, Retrainings, Start, Training, losses_under
from gradsim_assets.core.evaluation.training_inputs import training_inputs
from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.demo.model import RECIPE, build_demo_model
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: The demo's recipe, for a few steps.
SHORT = replace(RECIPE, steps=6, warmup=2)


def tables(count: int | None = None) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """The demo's originals and variants; its own answers are the paraphrases' here."""
    frames = [
        sample_frame([Sample(r["id"], *(m["content"] for m in r["messages"])) for r in rows[:count]])
        for rows in (load_originals(), load_paraphrases())
    ]
    return frames[0], dict.fromkeys(SETTINGS, frames[1])


def training_of(folder: Path, recipe: TrainingRecipe, count: int | None = None, base: Path | None = None) -> Training:
    revision = resolve(str(folder))
    model, tokenizer = load_model(str(folder), revision, "float32", "cpu")
    loaded = LoadedModel(model, ChatTokenizer(tokenizer), revision, "cpu")
    start = Start(str(folder), revision, str(base or ""), resolve(str(base)) if base else None)
    return training_inputs(recipe, start, *tables(count), loaded, "auto")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A tiny model and eight samples."""
    folder = save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    return training_of(folder, TrainingRecipe(steps=4, batch_size=2, learning_rate=1e-2), 8)


def test_retraining_on_all_originals_gives_the_demos_own_model_to_the_last_bit(tmp_path: Path) -> None:
    folder = build_demo_model(tmp_path, recipe=SHORT)
    training = training_of(folder, SHORT.training)
    again = training.model(frozenset())
    own = AutoModelForCausalLM.from_pretrained(folder)
    assert again.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(weight, own.state_dict()[name]) for name, weight in again.state_dict().items())
    samples = {ORIGINAL: training.originals[:5], "paraphrased": training.variants["paraphrased"][:5]}
    assert losses_under(again, samples, "cpu") == losses_under(own, samples, "cpu")
    plain = PlainAutograd(own, list(own.parameters()), "cpu")
    first = training.originals[0]
    assert losses_under(own, samples, "cpu")[ORIGINAL][first.id] == precise_loss(plain, first)


def test_the_same_set_gives_the_same_bits_and_another_one_others(tiny: Training) -> None:
    out = frozenset(tiny.ids[:3])
    found = tiny.losses(out)
    assert found == tiny.losses(frozenset(reversed(tiny.ids[:3])))
    assert found != tiny.losses(frozenset())
    assert set(found) == {ORIGINAL, *SETTINGS}
    assert list(found[ORIGINAL]) == tiny.ids  # those that were left out, too


def test_a_model_starts_from_its_base_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", seed=5)
    folder = save_tiny_model(tmp_path / "tuned", seed=6)
    recipe = TrainingRecipe(base=str(base), steps=1, batch_size=2, optimizer="sgd", learning_rate=1e-9)
    training = training_of(folder, recipe, 4, base)
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    for _ in range(2):  # a step of next to nothing, each from the base itself
        for name, weight in training.model(frozenset()).state_dict().items():
            torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)


def test_what_was_trained_is_read_and_not_trained_again(tiny: Training, tmp_path: Path) -> None:
    sets = [frozenset(tiny.ids[:2]), frozenset(tiny.ids[5:]), frozenset(tiny.ids[:2])]
    first = Retrainings(tiny, tmp_path, "code").losses(sets)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(written) == 2
    assert Retrainings(tiny, tmp_path, "code").losses(sets) == first == {one: tiny.losses(one) for one in sets}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == written


@pytest.mark.parametrize("what", ["code", "recipe", "original", "variant"])
def test_other_code_recipes_or_texts_are_other_retrainings(tiny: Training, what: str) -> None:
    changed = {
        "code": tiny,
        "recipe": replace(tiny, recipe=tiny.recipe.model_copy(update={"seed": 1})),
        "original": replace(tiny, originals=tiny.originals[::-1]),
        "variant": replace(tiny, variants={**tiny.variants, SETTINGS[0]: tiny.originals}),
    }[what]
    assert changed.version("other" if what == "code" else "code") != tiny.version("code")


def test_several_at_a_time_give_the_same_figures(tiny: Training, tmp_path: Path) -> None:
    sets = [frozenset([name]) for name in tiny.ids[:3]]
    alone = Retrainings(tiny, tmp_path / "one", "code").losses(sets)
    assert Retrainings(tiny, tmp_path / "two", "code", at_once=2).losses(sets) == alone


KILLED = """
import sys
from pathlib import Path
from gradsim_assets.core.evaluation.retraining import Retrainings
from gradsim_assets_tests.core.evaluation.test_retraining import training_of
from gradsim_assets.core.training.recipe import TrainingRecipe

if __name__ == "__main__":
    training = training_of(Path(sys.argv[1]), TrainingRecipe(steps=40, batch_size=4, learning_rate=1e-2), 8)
    sets = [frozenset([name]) for name in training.ids]
    Retrainings(training, Path(sys.argv[2]), "code", at_once=2).losses(sets)
"""


@pytest.mark.slow
def test_a_killed_retraining_goes_on_where_it_stopped_and_leaves_no_helper_behind(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    script, results = tmp_path / "killed.py", tmp_path / "results"
    script.write_text(KILLED)
    command, environment = (
        [sys.executable, str(script), str(folder), str(results)],
        {**os.environ, "PYTHONPATH": os.getcwd()},
    )
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list(results.rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    helpers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(helpers, timeout=120)
    assert alive == []
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert 2 <= len(before) < 8
    assert subprocess.run(command, env=environment, timeout=600).returncode == 0
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert len(after) == 8 and {path: after[path] for path in before} == before
    training = training_of(folder, TrainingRecipe(steps=40, batch_size=4, learning_rate=1e-2), 8)
    for path in after:
        found = json.loads(path.read_text())
        if path in list(before)[:1] or path == max(after, key=after.__getitem__):
            assert found["losses"] == training.losses(frozenset(found["left_out"]))
