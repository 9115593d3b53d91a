"""What is tried again and what is not, as Dagster does it."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.failures import RETRIES, input_errors


class OutOfMemoryError(RuntimeError):
    """As torch's own."""


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ServiceError("the hub cannot be asked"), 3),
        (OutOfMemoryError("CUDA out of memory"), 3),
        (OSError("Stale file handle"), 3),
        (InputError("org/name is gated"), 1),
        (TypeError("'int' object is not iterable"), 1),
        (ArithmeticError("products differ from autograd's"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_may_heal_is_tried_again_and_nothing_else(error: Exception, tries: int) -> None:
    tried = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def table() -> None:
        tried.append(1)
        with input_errors():
            raise error

    result = dg.materialize([table], raise_on_error=False)
    assert not result.success
    assert len(tried) == tries
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert str(error) in str(failure.step_failure_data.error_display_string)


def test_steps_that_ask_services_or_need_a_gpu_are_retried() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def()
    retried = {
        key.to_user_string()
        for key in repository.asset_graph.materializable_asset_keys
        if repository.asset_graph.get(key).assets_def.op.retry_policy == RETRIES
    }
    gradients = {
        f"{t}_{s}" for t in ("dot_products", "projected_similarity") for s in ("paraphrased", "model_generated")
    }
    assert retried == {"paraphrased", "model_generated", "parameters_per_component", *gradients}
