"""Gradients of every causal language model of transformers, against float64 by a fresh model per sample."""

import pytest

from gradsim_assets_tests.architectures.table import committed_rows, row_of
from gradsim_assets_tests.support.architectures import NOT_BUILT, tiny_causal_models
from gradsim_assets_tests.support.gradient_sweep import Build, outcome


@pytest.mark.architectures
@pytest.mark.parametrize(("name", "build"), [pytest.param(*model, id=model[0]) for model in tiny_causal_models()])
def test_gradients_are_exact_or_refused_as_the_table_says(name: str, build: Build) -> None:
    assert row_of(name, outcome(name, build)) == committed_rows()[name]


def test_the_table_names_every_causal_language_model() -> None:
    assert set(committed_rows()) == {name for name, _ in tiny_causal_models()} | set(NOT_BUILT)
