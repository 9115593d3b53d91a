"""How many tokens a model takes, against what its forward pass does."""

import pytest
import torch

from gradsim_assets.core.models.positions import context_of, logits_of, longest_taken, takes
from gradsim_assets_tests.support.architectures import CONTEXT, tiny_model


@pytest.mark.parametrize(
    ("model_type", "context"),
    [
        ("gpt2", CONTEXT),  # a table of learned positions
        ("opt", CONTEXT),  # one that is two rows longer
        ("roberta", CONTEXT - 2),  # one whose first rows are for padding
        ("ctrl", CONTEXT),  # a table of sines
        ("gptj", CONTEXT),  # rotary angles in a buffer
        ("codegen", CONTEXT),
        ("gpt_bigcode", CONTEXT),
        ("gpt_neo", CONTEXT),  # a causal mask in a buffer
        ("mpt", CONTEXT),  # linear biases of that length
    ],
)
def test_a_model_that_ends_is_found_to_end_there(model_type: str, context: int) -> None:
    model = tiny_model(model_type)
    assert context_of(model) == context
    assert takes(model, context) and not takes(model, context + 1)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model(input_ids=torch.full((1, context + 1), 5))


@pytest.mark.parametrize(
    ("model_type", "context"), [("llama", CONTEXT), ("xglm", CONTEXT), ("bloom", None), ("mamba", None)]
)
def test_a_model_that_goes_on_is_found_to_go_on(model_type: str, context: int | None) -> None:
    model = tiny_model(model_type)
    assert context_of(model) == context
    assert takes(model, 3 * CONTEXT)


def test_an_end_that_no_configuration_names_is_found_by_trying() -> None:
    model = tiny_model("gpt2")
    model.config.__dict__["n_positions"] = None
    assert context_of(model) is None
    assert longest_taken(model, 500) == CONTEXT


def test_a_pass_leaves_no_trace_in_a_model_that_remembers() -> None:
    """Dynamic rotary frequencies follow the longest text so far; a recurrent Gemma goes on from its last text."""
    for model, length in ((tiny_model("recurrent_gemma"), 40), (_dynamic(), 3 * CONTEXT)):
        ids = torch.arange(4, 34)[None]
        with torch.no_grad():
            before = logits_of(model, ids)
            logits_of(model, torch.arange(length)[None] % 100)
            assert torch.equal(logits_of(model, ids), before)
            model(input_ids=torch.arange(length)[None] % 100, use_cache=False)
            model(input_ids=ids[:, :1], use_cache=False)


def test_a_pass_leaves_no_trace_in_a_buffer_that_is_changed_in_place() -> None:
    model = tiny_model("llama")
    layer = model.model.layers[0].mlp
    layer.register_buffer("texts", torch.zeros(1))
    layer.register_forward_hook(lambda module, given, out: out * (1 + 0.1 * module.texts.add_(1)))
    with torch.no_grad():
        assert torch.equal(logits_of(model, torch.arange(4, 34)[None]), logits_of(model, torch.arange(4, 34)[None]))
    assert layer.texts == 0


def _dynamic() -> torch.nn.Module:
    rope = {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 4.0}
    return tiny_model("llama", max_position_embeddings=30, rope_parameters=rope)


def test_the_end_of_a_table_is_refused_before_a_device_asserts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA a lookup beyond the end takes the process down; here the lookup is never made."""
    model, looked_up = tiny_model("gpt2"), []
    real = torch.embedding
    monkeypatch.setattr(
        torch, "embedding", lambda *args, **kwargs: looked_up.append(int(args[1].max())) or real(*args, **kwargs)
    )
    assert not takes(model, CONTEXT + 5)
    assert looked_up and max(looked_up) < CONTEXT


def test_what_fails_for_any_length_is_no_matter_of_positions() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(5, 5)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        takes(model, 2)
