"""The callback in real trainings of transformers' Trainer: what it writes, and what gradsim makes of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from gradsim_assets.core.curvature.optimizer_states import moments_of, second_moments
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.learning_rates import learning_rates
from gradsim_assets.core.models.loading import load_skeleton
from gradsim_assets.core.models.revisions import Revision, resolve
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.integrations import RecordCheckpoints
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model

SAMPLES, BATCH, RATE, STEPS = 7, 2, 1e-3, 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"), "llama")


class Training:
    """One training of a tiny model; `seen` are the indices of the samples of each batch in the order in which they were put together."""

    def __init__(self, base: Path, run: Path, steps: tuple[int, ...], adapter: bool = False, **arguments: Any) -> None:
        self.seen: list[int] = []
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base)
        if adapter:
            model = get_peft_model(
                model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
            )
        data = [{"index": place, "input_ids": [3 + place, *range(4, 12)]} for place in range(SAMPLES)]
        stated = {
            "output_dir": str(run),
            "max_steps": STEPS,
            "learning_rate": RATE,
            "use_cpu": True,
            "per_device_train_batch_size": BATCH,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "remove_unused_columns": False,
            "logging_strategy": "no",
            **arguments,
        }
        self.trainer = Trainer(
            model,
            TrainingArguments(**stated),
            self._batch,
            data,
            processing_class=AutoTokenizer.from_pretrained(base),
            callbacks=[RecordCheckpoints(steps)],
        )

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.seen += [row["index"] for row in rows]
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids}


def drawn(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "sample_order.jsonl").read_text().splitlines()]


def test_chosen_steps_are_saved_with_the_rate_of_every_step_and_the_order_of_samples(
    base: Path, tmp_path: Path
) -> None:
    training = Training(base, tmp_path, (2, 5, 8))
    training.trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-5",
        "checkpoint-8",
    ]
    for step in (2, 5, 8):
        rates = learning_rates(Revision("any", str(tmp_path / f"checkpoint-{step}")))
        # Linear decay without warm-up: the first step has the whole rate, the last one an eighth of it.
        assert rates == pytest.approx({place: RATE * (STEPS - place + 1) / STEPS for place in range(1, step + 1)})
    order = [index for line in drawn(tmp_path) for index in line["indices"]]
    assert order == training.seen and [line["behind_step"] for line in drawn(tmp_path)] == [0, 4]
    assert sorted(order[:SAMPLES]) == list(range(SAMPLES)), "each sample once in an epoch"
    before = resolve(str(tmp_path / "checkpoint-5")).name
    (tmp_path / "checkpoint-5" / "training_record.json").unlink()
    assert resolve(str(tmp_path / "checkpoint-5")).name == before, "a record is no part of the model"


def test_steps_whose_groups_have_different_rates_are_recorded_as_such(base: Path, tmp_path: Path) -> None:
    training = Training(base, tmp_path, (2,), max_steps=2)
    weights = [p for p in training.trainer.model.parameters() if p.requires_grad]
    groups = [{"params": weights[:1], "lr": 1e-2}, {"params": weights[1:], "lr": 1e-4}]
    training.trainer.optimizer = torch.optim.AdamW(groups)
    training.trainer.train()
    place = tmp_path / "checkpoint-2"
    assert json.loads((place / "training_record.json").read_text())["learning_rates"] == {"1": None, "2": None}
    (place / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 2, "learning_rate": 1e-2}]}))
    for name in ("training_record.json", "scheduler.pt"):
        with pytest.raises(InputError, match="groups of parameters had different learning rates"):
            learning_rates(Revision("any", str(place)))
        (place / name).unlink()
    assert learning_rates(Revision("any", str(place))) == {2: 1e-2}


def test_a_resumed_training_goes_on_with_the_record_and_trains_as_without_the_callback(
    base: Path, tmp_path: Path
) -> None:
    Training(base, tmp_path / "whole", (8,)).trainer.train()
    bare = Training(base, tmp_path / "bare", (), save_strategy="steps", save_steps=8)
    bare.trainer.pop_callback(RecordCheckpoints)
    bare.trainer.train()
    Training(base, tmp_path / "cut", (3, 8)).trainer.train()
    Training(base, tmp_path / "cut", (3, 8)).trainer.train(
        resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3")
    )
    whole, other, resumed = (tmp_path / name / "checkpoint-8" for name in ("whole", "bare", "cut"))
    rates = [learning_rates(Revision("any", str(folder))) for folder in (whole, resumed)]
    assert rates[0] == rates[1] and len(rates[0]) == STEPS
    assert resolve(str(whole)).name == resolve(str(other)).name == resolve(str(resumed)).name, (
        "the same weights to the bit"
    )


@pytest.mark.parametrize("adapter", [False, True], ids=["whole model", "adapter"])
def test_second_moments_are_the_optimizers_own(adapter: bool, base: Path, tmp_path: Path) -> None:
    Training(base, tmp_path / "with", (4,), adapter).trainer.train()
    Training(base, tmp_path / "without", (4,), adapter, save_only_model=True).trainer.train()
    place = tmp_path / "without" / "checkpoint-4"
    assert not (place / "optimizer.pt").exists() and not (tmp_path / "with/checkpoint-4/second_moments.pt").exists()
    model = load_skeleton("it", resolve(str(place)))
    ours, theirs = (
        second_moments(path, model)
        for path in (place / "second_moments.pt", tmp_path / "with/checkpoint-4/optimizer.pt")
    )
    assert list(ours) == list(theirs) == [name for name, _ in trainable_components(model)]
    for name, one in ours.items():
        assert torch.equal(one.moments, theirs[name].moments) and one.epsilon == theirs[name].epsilon
    assert any(float(one.moments.max()) > 0 for one in ours.values())
    some = list(ours)[1:3]
    assert list(moments_of(ours, some)) == some
    with pytest.raises(InputError, match="no second moments of model.norm.bias, which it has not trained"):
        moments_of(ours, [*some, "model.norm.bias"])


def test_what_would_delete_checkpoints_or_is_no_step_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_total_limit = 2 deletes checkpoints"):
        Training(base, tmp_path, (2,), save_total_limit=2).trainer.train()
    assert RecordCheckpoints(np.arange(2, 5)).steps == {2, 3, 4}
    for wrong in (0, -3, 1.5):
        with pytest.raises(InputError, match=f"cannot save at step {wrong}"):
            RecordCheckpoints([wrong])  # type: ignore[list-item]


def test_it_brings_nothing_of_dagster_into_a_training_script() -> None:
    code = (
        "import sys, gradsim_assets.integrations; print([name for name in sys.modules if name.startswith('dagster')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_folder_of_an_adapters_training_is_computed_as_a_trajectory(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Training(base, run, (3, 8), adapter=True).trainer.train()
    config = (
        "[data]\nshards = 1\nsamples = 4\n[compute]\nprojections = []\n[preconditioners]\nmethods = ['adam']\n"
        f'[[models]]\nid = "{run}"\ncheckpoints = "checkpoint-*"\noptimizer_state = "optimizer.pt"\n'
    )
    done = gradsim(tmp_path / "home", "run", str(run), config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = Tables(str(tmp_path / "home" / "tables"))
    for step in (3, 8):
        place = Partition(model_slug(f"{run}@checkpoint-{step}"))
        methods = set(tables.read(["retrieval", "paraphrased"], place)["method"])
        assert {"full_gradient", "adam", "tracin", "tracin_normalised"} <= methods
        curvature = tables.read(["curvature", "adam"], place)
        assert set(curvature["source"]) == {"optimizer_state"} and all(
            "lora_" in name for name in curvature["component"]
        )
    told = tables.provenance(["tracin", "paraphrased"], place)["checkpoints"]
    assert [(one["step"], one["learning_rate"]) for one in told.values()] == [
        (3, pytest.approx(RATE * 7 / 8)),  # the mean of 8, 7 and 6 eighths
        (8, pytest.approx(RATE * 3 / 8)),
    ]
    assert tables.read(["model_comparison"])["step"].unique().sort().to_list() == [3, 8]
