"""The table of a model's answers: whose prompts are answered, and what is told of each answer."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gradsim_assets.core.datasets.model_generated import model_generated
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.samples import Missing, Sample, sample_frame, samples_of
from gradsim_assets.core.tables.schemas import MODEL_GENERATED
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.tiny_models import save_tiny_model

CONTEXT = 48
PROMPTS = {"short": "Name a river.", "long": "Name a river, please. " * 40, "middle": "Which river is the longest?"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = str(save_tiny_model(tmp_path_factory.mktemp("model"), positions=CONTEXT))
    hub = ModelHub(home=folder, device="cpu", models=[])
    return hub.load(folder, hub.resolve(folder))


def answer(
    loaded: LoadedModel, paraphrased: pl.DataFrame, policy: Any, store: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    return model_generated(
        paraphrased,
        paraphrased,
        loaded,
        policy,
        identity="1",
        store=store,
        progress=lambda *_: None,
        log=lambda _: None,
    )


def prompts(*names: str) -> pl.DataFrame:
    return sample_frame([Sample(name, PROMPTS[name], "An answer that is not read.") for name in names])


def test_a_prompt_that_fills_the_context_is_left_out_where_the_model_drops_what_is_long(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    table, counts = answer(loaded, prompts("short", "long", "middle"), "drop", tmp_path / "answers.jsonl")
    assert MODEL_GENERATED.enforce(table)["id"].to_list() == ["short", "middle"]
    assert counts["dropped"] == 1 and counts["prompt_no_prefix"] == 0
    assert counts["truncated"] == table["truncated"].sum()
    assert [sample.user for sample in samples_of(table)] == [PROMPTS["short"], PROMPTS["middle"]]
    lengths = [len(loaded.tokenizer.prompt_ids(sample)) for sample in samples_of(table)]
    assert table["prompt_tokens"].to_list() == lengths
    filled = table["prompt_tokens"] + table["completion_tokens"] == CONTEXT - 1  # EOS has a place, too
    assert table["truncated"].to_list() == filled.to_list()
    alone, _ = answer(loaded, prompts("middle"), "drop", tmp_path / "alone.jsonl")
    assert table.filter(id="middle").equals(alone), "whoever else is asked"


@pytest.mark.parametrize("policy", ["auto", "drop"])
def test_missing_variants_are_not_answered_nor_counted_as_left_out(
    policy: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    whole = prompts("short", "middle")
    with_gap = pl.concat([whole[:1], sample_frame([Missing("gone", "user: cut")]), whole[1:]])
    table, counts = answer(loaded, with_gap, policy, tmp_path / "gap.jsonl")
    assert table.equals(answer(loaded, whole, policy, tmp_path / "whole.jsonl")[0])
    assert counts["dropped"] == 0
    nothing, counts = answer(loaded, with_gap[1:2], policy, tmp_path / "nothing.jsonl")
    assert MODEL_GENERATED.enforce(nothing).is_empty() and counts["dropped"] == 0


@pytest.mark.parametrize("policy", ["auto", "keep", "truncate"])
def test_a_prompt_that_fills_the_context_is_an_error_otherwise(
    policy: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="sample long: its prompt has .* fills the model's context of 48"):
        answer(loaded, prompts("short", "long"), policy, tmp_path / "answers.jsonl")
