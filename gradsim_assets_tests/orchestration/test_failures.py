"""What is tried again and what is not, as Dagster does it, and what a failed step says."""

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import jinja2
import polars as pl
import pytest
import torch
from safetensors import SafetensorError

from gradsim_assets.configuration import DataSettings, Settings
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence

TRIES = 3

PASSING = [
    ServiceError("the hub cannot be asked"),
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError("others hold it"),
    OSError(errno.ESTALE, "Stale file handle"),
    ConnectionResetError("reset by peer"),
    pl.exceptions.ComputeError("error sending request for url (http://store/lima)"),
]

LASTING = [
    InputError("org/name is gated; accept its terms"),
    TypeError("'int' object is not iterable"),
    ArithmeticError("products differ from autograd's"),
    ValueError("All-NaN slice encountered"),
    RuntimeError("index 48 is out of bounds for dimension 1 with size 48"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    jinja2.TemplateSyntaxError("unexpected end of template", 1),
    jinja2.TemplateError("System role required"),
    SafetensorError("header too large"),
    pl.exceptions.ComputeError("parquet: File out of specification"),
    KeyError("no such column"),
]


def attempts(error: Exception) -> tuple[int, str]:
    """How often a step that raises an error is tried, and the last thing that its run says of it."""
    tried = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=TRIES - 1))
    @fails_in_one_sentence
    def table() -> None:
        tried.append(1)
        raise error

    result = dg.materialize([table], raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    last = result.all_events[-1]
    assert last.is_run_failure, "the last line of a run in the UI"
    first_words = last.job_failure_data.error.message.strip()
    assert (
        first_words
        == f"dagster._core.definitions.events.Failure: {failure.step_failure_data.user_failure_data.description}"
    )
    return len(tried), str(failure.step_failure_data.user_failure_data.description)


def name_of(error: Any) -> str:
    return type(error).__name__


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")],
    ids=name_of,
)
def test_a_full_disk_is_a_sentence_and_not_tried_again(error: Exception) -> None:
    tries, said = attempts(error)
    assert tries == 1
    assert "has no room left" in said and "free some there, or put GRADSIM_HOME" in said


@pytest.mark.parametrize("error", PASSING, ids=name_of)
def test_what_may_heal_is_tried_again_and_told_by_its_last_try(error: Exception) -> None:
    tries, said = attempts(error)
    assert tries == TRIES
    assert said.endswith(str(error))


@pytest.mark.parametrize("error", LASTING, ids=name_of)
def test_what_is_not_known_to_heal_is_told_at_once(error: Exception) -> None:
    tries, said = attempts(error)
    assert tries == 1
    expected = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert said == expected


def test_an_error_that_a_passing_one_led_to_may_heal_unless_it_is_bad_input() -> None:
    for last, tries in ((RuntimeError("it could not be had"), TRIES), (InputError("name another"), 1)):
        try:
            raise last from ConnectionError("refused")
        except (RuntimeError, InputError) as error:
            assert attempts(error)[0] == tries


def test_what_a_step_yields_before_it_fails_is_kept() -> None:
    @dg.multi_asset(specs=[dg.AssetSpec("first"), dg.AssetSpec("second")])
    @fails_in_one_sentence
    def tables() -> Iterator[dg.MaterializeResult[Any]]:
        yield dg.MaterializeResult(asset_key="first")
        raise InputError("the second cannot be had")

    result = dg.materialize([tables], raise_on_error=False)
    assert [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()] == ["first"]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data.description == "the second cannot be had"


def test_steps_that_ask_services_or_need_a_gpu_are_retried() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def()
    retried = {
        key.to_user_string()
        for key in repository.asset_graph.materializable_asset_keys
        if repository.asset_graph.get(key).assets_def.op.retry_policy == RETRIES
    }
    on_a_gpu = (
        *("dot_products", "projected_similarity", "first_order", "tail_patch", "token_attribution"),
        *("all_pairs", "all_pairs_projected", "linear_datamodeling_score", "removal"),
    )
    assert retried == {
        "paraphrased",
        "model_generated",
        "subset_losses",
        "parameters_per_component",
        *(f"{table}_{setting}" for table in on_a_gpu for setting in ("paraphrased", "model_generated")),
    }


@pytest.mark.parametrize(
    ("asset", "data"), [("lima", {"originals": "lima"}), ("bm25_candidates", {"retriever_tokens": "model"})]
)
def test_what_asks_the_hub_in_some_configurations_is_retried_there(asset: str, data: dict[str, str]) -> None:
    settings = Settings(home=Path("/nowhere"), tables="/nowhere", data=DataSettings.model_validate(data))
    graph = build_definitions(settings).get_repository_def().asset_graph
    assert graph.get(dg.AssetKey(asset)).assets_def.op.retry_policy == RETRIES


def test_every_step_fails_in_one_sentence() -> None:
    """Also those that may be added: whatever Dagster runs of ours was wrapped."""
    repository = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def()
    bare = {
        node.definition.name
        for job in repository.get_all_jobs()
        for node in job.nodes
        if not hasattr(node.definition.compute_fn.decorated_fn, "__wrapped__")
    }
    observed = repository.source_assets_by_key.values()
    assert bare == {source.key.to_user_string() for source in observed}, "Dagster wraps an observation itself"
    assert all(hasattr(source.observe_fn, "__wrapped__") for source in observed)
