"""Answers of every causal language model of transformers, alone and in batches, against `generate` one by one."""

from collections.abc import Callable

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from gradsim_assets.core.datasets.generation.answers import Generated
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.checkpoints import check_forward
from gradsim_assets.core.models.positions import context_of
from gradsim_assets_tests.support.architectures import CONTEXT, NOT_BUILT, tiny_causal_models, tiny_model
from gradsim_assets_tests.support.generation_cases import answered, by_generate, prompts

pytestmark = pytest.mark.architectures

#: What these models are refused for; all others must answer as `generate` does.
REFUSED = {
    "blt": "does not answer it through transformers' generate",
    "cpmant": "looks at tokens behind the one that it predicts from",
    "reformer": "gives other numbers for the same text each time",
    "xlnet": "looks at tokens behind the one that it predicts from",
}


@pytest.mark.parametrize(("name", "build"), [pytest.param(*model, id=model[0]) for model in tiny_causal_models()])
def test_answers_are_those_of_generate(name: str, build: Callable[[], torch.nn.Module]) -> None:
    def found(batch_size: int) -> list[Generated]:
        model = build()
        check_forward(name, model)
        return answered(model, batch_size, context_of(model) or CONTEXT)

    if name in REFUSED:
        for batch_size in (1, 3):
            with pytest.raises(InputError, match=REFUSED[name]):
                found(batch_size)
        return
    context = context_of(build()) or CONTEXT
    expected = [by_generate(build, prompt, context) for prompt in prompts(context)]
    assert found(1) == expected
    assert found(3) == expected


@pytest.mark.parametrize("model_type", NOT_BUILT)
def test_what_is_not_built_cannot_be_built(model_type: str) -> None:
    with pytest.raises((AttributeError, ImportError, StrictDataclassError, ValueError)):
        tiny_model(model_type)
