"""Templates that do not do what a sample needs, and those that do it in their own way."""

from datetime import datetime

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models import chat_templates
from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.models.tokenization import ChatTokenizer, encode_samples
from gradsim_assets.core.samples import Sample
from gradsim_assets.demo.model import train_tokenizer

SAMPLE = Sample("s", "Is water wet?", "Yes it is.")

TURNS = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
#: DeepSeek-R1 and its distillates: the thoughts are opened for the model, and left out of what it said before.
THINKING = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}\n"
    "{% else %}<|assistant|>\n{{ m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
)
#: The prompt ends in a space, which merges with the word behind it.
MERGING = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + ('\n' if m['role'] == 'user' else eos_token) }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
#: What the user said reads otherwise when it was said last.
LAST_TURN_CHANGED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{{ ' /think' if loop.last and m['role'] == 'user' else '' }}{{ eos_token + '\n' }}{% endfor %}" + HEADER
)

#: Templates that change an answer: harmlessly, or so that the loss is on another text than the sample's.
TRIMMED = TURNS.replace("m['content']", "m['content'] | trim") + HEADER
WITHOUT_REASONING = TURNS.replace("m['content']", "m['content'].split('</think>')[-1]") + HEADER
CUT = TURNS.replace("m['content']", "m['content'][:20]") + HEADER


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("chatml", 'chat_template = "chatml" is no template; it is "tulu", "model"'),
        ("Tulu", 'chat_template = "Tulu" is no template'),
        ("templates/mine.jinja", 'chat_template = "templates/mine.jinja" is no template'),
        ("{% for m in messages %}{{ m['content'] }}", "fails (TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages[0]['content'] | shout }}", "fails (TemplateAssertionError: No filter named 'shout'"),
        ("{{ raise_exception('only for tools') }}", "fails (TemplateError: only for tools)"),
        (
            "{% for m in messages %}{{ m['content'] + eos_tokn }}{% endfor %}",
            "fails (UndefinedError: 'eos_tokn' is undefined",
        ),
        ("{% for m in messages %}{{ m['content'] }}{{ eos_tokn }}{% endfor %}", "prints eos_tokn, which nobody sets"),
        ("{% for m in messages %}{{ m['contents'] }}{% endfor %}", "leaves out the user message;"),
        ("{% for m in mesages %}{{ m['content'] }}{% endfor %}", "leaves out the user message;"),
        ("{{ messages[0]['content'] }}", "leaves out the answer;"),
        ("{{ ['Hi', 'Hello'] | random }}" + TURNS, "draws at random (random)"),
        (TURNS + "{{ lipsum(1) }}", "draws at random (lipsum)"),
        ("{% if not add_generation_prompt %}" + TURNS + "{% endif %}", "leaves out the user message of a prompt;"),
    ],
)
def test_what_is_no_template_is_refused_at_once(template: str, said: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError) as error:
        ChatTokenizer(tokenizer, template)
    assert said in str(error.value)


def test_a_tokenizer_of_several_named_templates_without_a_default_is_refused() -> None:
    several = train_tokenizer()
    several.chat_template = {"rag": TURNS, "tool_use": TURNS}
    with pytest.raises(
        InputError, match=r"the chat template fails \(ValueError: This model has multiple chat templates"
    ):
        ChatTokenizer(several, "model")
    several.chat_template = {"default": TURNS, "tool_use": THINKING}
    assert "<think>" not in ChatTokenizer(several, "model").text(SAMPLE.messages[:1], generation_prompt=True)


def test_optional_variables_and_missing_special_tokens_are_no_mistakes(tokenizer: PreTrainedTokenizerFast) -> None:
    template = (
        "{{ bos_token }}{% if tools %}{{ tools }}{% endif %}{% if enable_thinking is defined %}x{% endif %}" + TURNS
    )
    assert (
        ChatTokenizer(tokenizer, template).text(SAMPLE.messages[:1], False) == f"<|user|>\n{SAMPLE.user}<|endoftext|>\n"
    )


@pytest.mark.parametrize(
    ("template", "answer", "loss_on", "sure"),
    [
        ("tulu", "Yes it is.", "Yes it is.<|endoftext|>", True),
        (TURNS + HEADER, "Yes it is.", "Yes it is.<|endoftext|>\n", True),
        (MERGING, "Yes", " Yes<|endoftext|>", False),
        (THINKING, "Yes it is, as everybody knows.", "Yes it is, as everybody knows.<|endoftext|>", False),
        (THINKING, "No", "No<|endoftext|>", False),
        (LAST_TURN_CHANGED, "Yes it is wet.", "<|endoftext|>\n<|assistant|>\nYes it is wet.<|endoftext|>\n", False),
        (TURNS, "Yes", "<|assistant|>\nYes<|endoftext|>\n", False),
        (TURNS + HEADER, "Yes it is.\n", "Yes it is.\n<|endoftext|>\n", True),
        (TRIMMED, "  Yes it is.\n", "Yes it is.<|endoftext|>\n", True),
        (WITHOUT_REASONING, "It is wet, so</think> yes.", " yes.<|endoftext|>\n", False),
        (CUT, "It is wet: whatever touches it is.", "It is wet: whatever <|endoftext|>\n", False),
    ],
)
def test_labels_begin_where_prompt_and_whole_part(
    template: str, answer: str, loss_on: str, sure: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = ChatTokenizer(tokenizer, template)
    sample = Sample("s", SAMPLE.user, answer)
    result = encode_samples([sample], chat, None, lambda length: True)
    (encoded,) = result.samples
    assert tokenizer.decode(encoded.input_ids[encoded.labels != IGNORED]) == loss_on
    assert result.prompt_no_prefix == ([] if sure else ["s"])
    assert chat.border_is_sure(sample) is sure


def test_the_clock_of_a_template_stands_still(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer, "{{ 'It is ' + strftime_now('%d %b %Y, %H:%M:%S.%f') }}\n" + TURNS + HEADER)
    assert chat.text(SAMPLE.messages, False).startswith("It is 26 Jul 2024, 00:00:00.000000\n<|user|>")
    # As Llama 3.1 asks for it, indented and after a line of its own.
    template = (
        "\n  {% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}{{ day }}|" + TURNS
    )
    still, moving = (
        ChatTokenizer(tokenizer, text).text(SAMPLE.messages, False)
        for text in (
            template,
            template.replace("strftime_now is", "date_string is"),
        )
    )
    assert still == moving.replace("|", "26 Jul 2024|", 1)


def test_every_way_to_ask_for_the_day_is_one_of_strftime(tokenizer: PreTrainedTokenizerFast) -> None:
    day = datetime(2024, 7, 26)
    for asked, said in chat_templates.TODAY.items():
        assert day.strftime(asked) == said


@pytest.mark.parametrize(
    ("template", "behind"),
    [("tulu", 1), (TURNS + HEADER, 2), ("{% for m in messages %}{{ m['content'] }}{% endfor %}", 0)],
)
def test_what_stands_behind_an_answer_is_counted(
    template: str, behind: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert ChatTokenizer(tokenizer, template).tokens_behind_answer == behind


def test_an_answer_is_the_text_behind_its_prompt_with_its_leading_space() -> None:
    """As Llama 2: a space before every word, and none before the first word of a text."""
    words = ["<s>", "</s>", "▁", "▁Is", "▁it", "▁Yes", "▁no", "."]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[])),
        bos_token="<s>",
        eos_token="</s>",
    )
    backend = fast.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    chat = ChatTokenizer(fast, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert fast.decode([5, 7]) == "Yes."
    assert chat.answer_text([3, 4], [5, 7]) == " Yes."
    assert chat.answer_text([3, 4], []) == ""
    assert chat.answer_text([3, 4], [7]) == "."


def test_a_token_that_the_model_lacks_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = ChatTokenizer(tokenizer, vocabulary=2)  # <|user|> is the third
    with pytest.raises(
        InputError, match=r"sample s has the token .* \(id \d+\), but the model has embeddings for 2 tokens"
    ):
        chat.encode(SAMPLE)
    with pytest.raises(InputError, match="sample s has the token"):
        chat.prompt_ids(SAMPLE)
