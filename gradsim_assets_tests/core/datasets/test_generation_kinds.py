"""Answers of one model of each kind that batches treat otherwise, against `generate` one by one.

`make test-architectures` does this for every model that transformers knows.
"""

from collections.abc import Callable

import pytest
import torch

from gradsim_assets.core.datasets.generation.answers import Generated
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.positions import context_of, takes
from gradsim_assets.core.models.tokenization import encode_samples
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.architectures import CONTEXT, VOCABULARY, tiny_causal_models
from gradsim_assets_tests.support.character_tokenizer import character_tokenizer, text_of
from gradsim_assets_tests.support.generation_cases import ENDS, answered, by_generate, prompts

BUILDERS = dict(tiny_causal_models())
ALONE = "answers one prompt at a time: beside a longer prompt it gives another answer"


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads on models this small are many times slower, not faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compared(build: Callable[[], torch.nn.Module]) -> tuple[list[Generated], list[str]]:
    """Answers in batches of three, which are those of `generate`, and what was said of them."""
    context, said = context_of(build()) or CONTEXT, []
    found = answered(build(), 3, context, said)
    assert found == [by_generate(build, prompt, context) for prompt in prompts(context)]
    return found, said


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",  # learned positions, left padding
        "gpt_neo",  # a causal mask of context length in a buffer
        "gptj",  # rotary angles in a buffer
        "mpt",  # linear biases of context length
        "bloom",  # linear biases from the mask
        "gemma2",  # sliding windows in every other layer, soft caps
        "mamba",  # a recurrent state in place of keys and values
        "jamba",  # recurrent and attention layers, experts
        "falcon_h1",  # both in one layer
        "openai-gpt",  # no cache
    ],
)
def test_batches_give_the_answers_of_generate(name: str) -> None:
    found, said = compared(BUILDERS[name])
    assert said == []
    assert not all(answer.alone for answer in found)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rwkv", ALONE),  # no mask: padding goes into the state
        ("recurrent_gemma", ALONE),  # the same, and the state of the last text stays
        ("bart", ALONE),  # positions are counted from the padding on
        ("xlm-roberta", "answers one prompt at a time: step by step it computes another thing than at once"),
        ("xlstm", "answers one prompt at a time: a batch of two prompts fails (NotImplementedError: its forward pass"),
    ],
)
def test_what_cannot_be_batched_is_decoded_alone_and_said(name: str, why: str) -> None:
    found, said = compared(BUILDERS[name])
    assert len(said) == 1 and why in said[0]
    assert all(answer.alone for answer in found)


def test_rotary_frequencies_that_follow_the_longest_row_are_found_out_row_by_row() -> None:
    """In a batch the longest row decides for all; a row that starts below the switch and ends beyond it changes midway."""
    found, said = compared(BUILDERS["phi3 longrope"])
    assert sum(answer.alone for answer in found) > 0
    assert len(said) <= 1


def test_a_model_that_generate_cannot_handle_is_refused_by_its_first_sample() -> None:
    with pytest.raises(
        InputError, match=r"sample .* does not answer it through transformers' generate \(AttributeError"
    ):
        answered(BUILDERS["blt"](), 3, CONTEXT)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "codegen", "gpt_bigcode", "mpt"])
def test_an_answer_that_fills_the_context_fits_it_with_what_stands_behind_it(name: str) -> None:
    """The template ends an answer with EOS, which must have a position, too."""
    from gradsim_assets.core.datasets.generation.answers import generate_answers

    template = (
        "{% for m in messages %}{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
    )
    model, chat = BUILDERS[name](), character_tokenizer(VOCABULARY, template)
    model.generation_config.eos_token_id = None
    sample = Sample("s", text_of(prompts(CONTEXT)[0]), "-")
    (answer,) = generate_answers(model, chat, [sample], max_positions=CONTEXT, device="cpu")
    assert answer.truncated and answer.prompt_tokens + answer.completion_tokens == CONTEXT - 1
    encoding = encode_samples([Sample("s", sample.user, answer.answer)], chat, CONTEXT, lambda n: takes(model, n))
    (encoded,) = encoding.samples
    assert encoded.length == CONTEXT and not encoding.truncated and not encoding.kept_long
    assert encoded.input_ids[-1] == chat.tokenizer.eos_token_id
    logits = model(input_ids=torch.tensor(encoded.input_ids)[None]).logits
    assert torch.isfinite(logits).all()


def test_end_tokens_are_those_that_the_cases_ask_for() -> None:
    """The comparison means something only if answers end in both ways, at several lengths."""
    answers, _ = compared(BUILDERS["gpt2"])
    assert {answer.truncated for answer in answers} == {True, False}
    assert len({answer.completion_tokens for answer in answers}) > 3 and len(ENDS) > 1
