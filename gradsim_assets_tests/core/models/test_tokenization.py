"""The exact text and labels of the template "tulu", against the tokenizer's own apply_chat_template and by hand."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.chat_templates import TULU_TEMPLATE
from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.models.tokenization import ChatTokenizer, ContextPolicy, encode_samples
from gradsim_assets.core.samples import Sample
from gradsim_assets.demo.model import train_tokenizer

SAMPLE = Sample("s", "How tall is the Eiffel Tower?\nIn metres.", "About 330 m. 🗼")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


def test_the_text_is_the_one_of_the_design(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer)
    eos = tokenizer.eos_token
    assert chat.text(SAMPLE.messages, generation_prompt=False) == (
        f"<|user|>\n{SAMPLE.user}\n<|assistant|>\n{SAMPLE.assistant}{eos}"
    )
    assert chat.text(SAMPLE.messages[:1], generation_prompt=True) == f"<|user|>\n{SAMPLE.user}\n<|assistant|>\n"
    # Inside a conversation, an answer is followed by a newline.
    assert chat.text([*SAMPLE.messages, *SAMPLE.messages[:1]], generation_prompt=False) == (
        f"<|user|>\n{SAMPLE.user}\n<|assistant|>\n{SAMPLE.assistant}{eos}\n<|user|>\n{SAMPLE.user}\n"
    )


def test_token_ids_are_those_of_apply_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer)
    for messages, prompt in ((SAMPLE.messages, False), (SAMPLE.messages[:1], True)):
        expected = tokenizer.apply_chat_template(
            messages, chat_template=TULU_TEMPLATE, add_generation_prompt=prompt, tokenize=True, return_dict=False
        )
        assert chat.token_ids(messages, prompt).tolist() == expected


def test_labels_leave_out_as_many_tokens_as_the_prompt_has(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer)
    encoded = chat.encode(SAMPLE)
    prompt = len(chat.prompt_ids(SAMPLE))
    assert (encoded.labels[:prompt] == IGNORED).all()
    assert np.array_equal(encoded.labels[prompt:], encoded.input_ids[prompt:])
    assert encoded.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.bos_token_id is None or encoded.input_ids[0] != tokenizer.bos_token_id


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = train_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="has no EOS token, so an answer has no end"):
        ChatTokenizer(tokenizer)


def test_the_models_own_template_must_exist_and_is_then_used(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = train_tokenizer()
    bare.chat_template = None
    with pytest.raises(InputError, match="has no chat template of its own"):
        ChatTokenizer(bare, "model")
    bare.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    assert (
        ChatTokenizer(bare, "model").text(SAMPLE.messages, False) == f"[user]{SAMPLE.user}[assistant]{SAMPLE.assistant}"
    )


def test_an_answer_without_tokens_has_no_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    no_end = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="sample s has no response tokens"):
        ChatTokenizer(tokenizer, no_end).encode(Sample("s", "Say nothing.", ""))


@pytest.mark.parametrize(
    ("policy", "ends", "kept", "count"),
    [
        ("auto", False, ["s", "long"], {"kept_long": ["long"]}),
        ("keep", False, ["s", "long"], {"kept_long": ["long"]}),
        ("truncate", True, ["s", "long"], {"truncated": ["long"]}),
        ("drop", True, ["s"], {"dropped": ["long"]}),
    ],
)
def test_what_happens_to_long_samples_is_said(
    policy: ContextPolicy, ends: bool, kept: list[str], count: dict[str, list[str]], tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = ChatTokenizer(tokenizer)
    limit = chat.encode(SAMPLE).length
    long = Sample("long", "Go on.", "word " * limit)
    result = encode_samples([SAMPLE, long], chat, limit, lambda length: not ends or length <= limit, policy)
    assert [sample.id for sample in result.samples] == kept
    assert {name: ids for name in ("kept_long", "truncated", "dropped") if (ids := getattr(result, name))} == count
    assert all(sample.length <= limit or policy in ("auto", "keep") for sample in result.samples)


@pytest.mark.parametrize("policy", ["auto", "keep"])
def test_positions_end_where_the_model_ends(policy: ContextPolicy, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match=r"sample s has .* tokens, but the model has positions for 8 only"):
        encode_samples([SAMPLE], ChatTokenizer(tokenizer), 8, lambda length: length <= 8, policy)


def test_a_model_is_asked_for_the_longest_sample_alone_and_only_beyond_its_context(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat, asked = ChatTokenizer(tokenizer), []
    long = Sample("long", "Go on.", "word " * 40)
    lengths = [chat.encode(sample).length for sample in (SAMPLE, long)]

    def takes(length: int) -> bool:
        asked.append(length)
        return True

    encode_samples([SAMPLE, long], chat, max(lengths), takes)
    assert asked == []  # a pass that shows it costs as much as the sample itself
    encode_samples([SAMPLE, long], chat, min(lengths) - 1, takes)
    assert asked == [max(lengths)]
    with pytest.raises(InputError, match="sample long has .* its configuration names no context to cut samples to"):
        encode_samples([SAMPLE, long], chat, None, lambda length: length <= min(lengths))


def test_an_answer_of_the_model_that_reads_longer_than_it_was_written_is_cut_and_counted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    chat = ChatTokenizer(tokenizer)
    limit = chat.encode(SAMPLE).length - 1
    result = encode_samples([SAMPLE], chat, limit, lambda length: length <= limit, "auto", generated=True)
    assert result.truncated == ["s"] and result.samples[0].length == limit
    kept = encode_samples([SAMPLE], chat, limit, lambda length: True, "auto", generated=True)
    assert kept.kept_long == ["s"] and kept.samples[0].length == limit + 1


def test_a_truncated_answer_must_keep_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer)
    with pytest.raises(InputError, match="sample s has no response tokens"):
        encode_samples([SAMPLE], chat, len(chat.prompt_ids(SAMPLE)), lambda length: False, "truncate")


def test_the_tokenizer_reads_back_what_it_writes(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert (
        ChatTokenizer(again).encode(SAMPLE).input_ids.tolist()
        == ChatTokenizer(tokenizer).encode(SAMPLE).input_ids.tolist()
    )
