"""The loss of conversations is on their answers: token for token as TRL's assistant_only_loss has it, or refused.

TRL trains on what transformers' `apply_chat_template(..., return_assistant_tokens_mask=True)` marks, in its own training templates
where a model's have no marks; that call is made here, on the same marks.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.models.tokenization import ChatTokenizer, encode_samples
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.template_families import (
    FAMILIES,
    QWEN_3,
    TOOLS,
    tokenizer_of_families,
    turns,
    unmarked,
)

TEXTS = (
    *(
        "Is water wet?",
        "Yes: whatever touches it is. 💧",
        "And ice?\nSay why.",
        "Ice is dry,\n\nas long as it is cold.",
    ),
    *("Thanks", "Any time!"),
)
ANSWERS = TEXTS[1::2]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of_families()


def trl_mask(
    tokenizer: PreTrainedTokenizerFast, template: str, messages: list[dict[str, Any]], tools: Any = None
) -> Any:
    return tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )


def in_loss(tokenizer: PreTrainedTokenizerFast, chat: ChatTokenizer, sample: Sample) -> list[str]:
    """The stretches of a sample that its loss is on, as texts."""
    encoded = chat.encode(sample)
    counted = np.flatnonzero(encoded.labels != IGNORED)
    assert np.array_equal(encoded.labels[counted], encoded.input_ids[counted])
    stretches = np.split(counted, np.flatnonzero(np.diff(counted) > 1) + 1)
    return [tokenizer.decode(encoded.input_ids[stretch]) for stretch in stretches]


@pytest.mark.parametrize("system", ["", "Be brief and kind."])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_that_trl_trains_on(family: str, system: str, tokenizer: PreTrainedTokenizerFast) -> None:
    template, before, within, at_end, takes_system = FAMILIES[family]
    if system and not takes_system:
        pytest.skip("the family has no system messages")
    messages = turns(*TEXTS, system=system)
    sample, expected = Sample.of("s", messages), trl_mask(tokenizer, template, messages)
    for text in (template, unmarked(template)):
        encoded = ChatTokenizer(tokenizer, text).encode(sample)
        assert encoded.input_ids.tolist() == expected["input_ids"]
        assert (encoded.labels != IGNORED).astype(int).tolist() == expected["assistant_masks"]
        ends = (within, within, at_end)
        said = [before + answer + end for answer, end in zip(ANSWERS, ends, strict=True)]
        assert in_loss(tokenizer, ChatTokenizer(tokenizer, text), sample) == said
        last = ChatTokenizer(tokenizer, text, loss_on="last")
        assert in_loss(tokenizer, last, sample) == said[-1:]
        whole = ChatTokenizer(tokenizer, text, loss_on="all").encode(sample)
        assert np.array_equal(whole.labels, whole.input_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_exchange_counts_the_same_tokens_as_in_a_conversation(
    family: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Its own definition (all behind the prompt) and the one of conversations are one, where the template opens answers."""
    template, before, _, at_end, _ = FAMILIES[family]
    for text in (template, unmarked(template)):
        assert in_loss(tokenizer, ChatTokenizer(tokenizer, text), Sample("s", *TEXTS[:2])) == [
            before + ANSWERS[0] + at_end
        ]


def conversations(takes_system: bool) -> Iterator[list[dict[str, Any]]]:
    """Of one to ten turns, of texts that people write: as the Tulu 2 mixture is made, some with a system prompt."""
    rng = random.Random(5)
    pieces = [
        "Why?",
        "1. First\n2. Then",
        "```py\nx = 1\n```",
        "naïve café 🗼",
        "  spaced  out",
        "\ttabs",
        "<b>bold</b>",
        '"so"',
    ]
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) * 3:
        texts = (
            " ".join(rng.choices(pieces, k=rng.randint(1, 6))) + rng.choice([".", "", "!", "\n"])
            for _ in range(2 * count)
        )
        yield turns(*texts, system="Answer as a pirate." if takes_system and rng.random() < 0.5 else "")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_conversation_of_up_to_ten_turns_is_refused(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    template, *_, takes_system = FAMILIES[family]
    chats = [ChatTokenizer(tokenizer, text) for text in (template, unmarked(template))]
    for number, messages in enumerate(conversations(takes_system)):
        expected = trl_mask(tokenizer, template, messages)["assistant_masks"]
        for chat in chats:
            encoded = chat.encode(Sample.of(str(number), messages))
            assert (encoded.labels != IGNORED).astype(int).tolist() == expected, messages


def test_what_only_the_end_of_a_conversation_shows_is_no_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = turns(*TEXTS)
    expected = trl_mask(tokenizer, QWEN_3, messages)["assistant_masks"]
    for text in (QWEN_3, unmarked(QWEN_3)):
        chat = ChatTokenizer(tokenizer, text)
        labels = chat.encode(Sample.of("s", messages)).labels
        assert (labels != IGNORED).astype(int).tolist() == expected
        assert in_loss(tokenizer, chat, Sample.of("s", messages))[-1] == "<think>\n\n</think>\n\nAny time!<|im_end|>\n"
    within = unmarked(QWEN_3).replace("if loop.last", "if not loop.last")  # what is shown there is not the answer alone
    with pytest.raises(InputError, match=r"goes on otherwise behind the answer .*\(message 2, assistant\)"):
        ChatTokenizer(tokenizer, within).encode(Sample.of("s", messages))


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
WITH_TOOLS = [
    {"role": "user", "content": "How is the weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"sky": "clear"}'},
    {"role": "assistant", "content": "It is clear."},
    {"role": "user", "content": "And tomorrow?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "rain"},
    {"role": "tool", "content": "snow"},
    {"role": "assistant", "content": "Rain, then snow."},
    {"role": "user", "content": "Thank you"},
]


def test_calls_of_tools_are_answers_and_what_tools_say_is_none(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = Sample.of("s", WITH_TOOLS, [WEATHER])
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>'
    expected = trl_mask(tokenizer, TOOLS, WITH_TOOLS, [WEATHER])
    for text in (TOOLS, unmarked(TOOLS)):
        chat = ChatTokenizer(tokenizer, text)
        assert in_loss(tokenizer, chat, sample) == [
            f"{answer}<|im_end|>\n" for answer in (call, "It is clear.", f"I look.{call}{call}", "Rain, then snow.")
        ]
        assert (chat.encode(sample).labels != IGNORED).astype(int).tolist() == expected["assistant_masks"]
        prompt = tokenizer.decode(chat.prompt_ids(sample))
        assert prompt.endswith("Thank you<|im_end|>\n<|im_start|>assistant\n") and "weather" in prompt


HEADERLESS = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
#: Qwen 3, in short: thoughts are dropped, but for those of the last answer.
THOUGHTS_OF_THE_LAST = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    "{{ (m['content'] if loop.last else m['content'].split('</think>')[-1]) + eos_token + '\n' }}{% endfor %}"
) + OPENING
OTHER_PROMPT = HEADERLESS + "{% if add_generation_prompt %}{{ '<|system|>Answer:' }}{% endif %}"
#: What a model may say is changed by it.
CUT_AT_END = HEADERLESS.replace("m['content']", "m['content'].split('END')[0]")


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (HEADERLESS, turns(*TEXTS), r"there is no generation prompt.*\(message 2, assistant\)"),
        (OTHER_PROMPT, turns("Q", "A", "Why?", "Because"), r"does not begin with the prompt of the answer \(message 2, assistant\)"),
        (THOUGHTS_OF_THE_LAST, turns("Q", "<think>x</think>A", "Q", "A"), r"changed or left out \(message 2, assistant\)"),
        (HEADERLESS.replace("m['content']", "m['content'][:21]") + OPENING, turns(*TEXTS), r"a text is changed or left out \(message 2, assistant\)"),
        (FAMILIES["chatml"][0].replace("m['content'] +", "(m['content'] or '') +"), WITH_TOOLS, r"a tool call is left out \(message 2, assistant\)"),
        (FAMILIES["gemma"][0], turns(*TEXTS, system="Be kind."), "System role not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_exactly_is_refused(
    template: str, messages: list[dict[str, Any]], said: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(InputError, match=said):
        ChatTokenizer(tokenizer, template).encode(Sample.of("s", messages))


def test_a_token_over_the_border_counts_as_in_trl_and_makes_a_sample_doubtful(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = FAMILIES["tulu"][0].replace("<|assistant|>\n", "<|assistant|>: ")
    messages = turns(*TEXTS)
    for text in (template, unmarked(template)):
        chat = ChatTokenizer(tokenizer, text)
        result = encode_samples(
            [Sample.of("s", messages), Sample.of("t", turns("Q", "\nA", "R", "\nB"))], chat, None, lambda n: True
        )
        assert result.prompt_no_prefix == ["s"]
        labels = result.samples[0].labels
        assert (labels != IGNORED).astype(int).tolist() == trl_mask(tokenizer, template, messages)["assistant_masks"]
        assert in_loss(tokenizer, chat, Sample.of("s", messages))[0] == " Yes: whatever touches it is. 💧<|endoftext|>"


def test_tools_that_a_template_leaves_out_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="sample s: its chat template leaves out its tools;"):
        ChatTokenizer(tokenizer).encode(Sample.of("s", turns(*TEXTS), [WEATHER]))


def test_of_the_last_answer_alone_the_thoughts_may_be_dropped_before(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer, FAMILIES["deepseek r1"][0])
    sample = Sample.of("s", turns("Q", "<think>hm</think>One.", "Q", "Two."))
    assert in_loss(tokenizer, chat, sample) == ["One.<｜end▁of▁sentence｜>", "Two.<｜end▁of▁sentence｜>"]


def test_a_doubtful_answer_of_the_model_is_counted_and_not_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer, CUT_AT_END + OPENING)
    sure, doubtful = (
        Sample.of(name, turns("Q", "A", "And?", answer)) for name, answer in (("a", "Yes"), ("b", "Yes.END No"))
    )
    result = encode_samples([sure, doubtful], chat, None, lambda length: True, generated=True)
    assert result.prompt_no_prefix == ["b"] and [one.id for one in result.samples] == ["a", "b"]
    assert [chat.border_is_sure(sample) for sample in (sure, doubtful)] == [True, False]
    with pytest.raises(InputError, match=r"\(message 4, assistant\)"):
        encode_samples([doubtful], chat, None, lambda length: True)
