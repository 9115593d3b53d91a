"""From a sample to the token ids and labels that its loss is defined on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.samples import Sample

#: The "tulu" format of open-instruct: no BOS, EOS after an answer, no newline at the very end of a conversation.
TULU_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + eos_token }}{{ '' if loop.last else '\n' }}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

ContextPolicy = Literal["auto", "keep", "truncate", "drop"]


@dataclass(frozen=True)
class Encoding:
    """Encoded samples in order, and the ids for which the context policy did something."""

    samples: list[EncodedSample]
    kept_long: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ChatTokenizer:
    """A Hugging Face tokenizer with the chat template in force.

    `template` is "tulu", "model" (the tokenizer's own) or the text of a Jinja template.
    """

    tokenizer: Any
    template: str = "tulu"

    def __post_init__(self) -> None:
        name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                f"{name} has no EOS token, so an answer has no end; set eos_token in its tokenizer_config.json."
            )
        if self.template == "model" and not self.tokenizer.chat_template:
            raise InputError(f'{name} has no chat template of its own; set chat_template = "tulu" for this model.')

    @property
    def jinja(self) -> str | None:
        """The template's text; None stands for the tokenizer's own."""
        return {"tulu": TULU_TEMPLATE, "model": None}.get(self.template, self.template)

    def text(self, messages: Sequence[dict[str, str]], generation_prompt: bool) -> str:
        """The conversation as one string."""
        return self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.jinja, tokenize=False, add_generation_prompt=generation_prompt
        )

    def token_ids(self, messages: Sequence[dict[str, str]], generation_prompt: bool) -> np.ndarray:
        """Token ids (int64, length T) of the conversation; special tokens come from the template alone."""
        text = self.text(messages, generation_prompt)
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def prompt_ids(self, sample: Sample) -> np.ndarray:
        """Token ids of the user turn with the generation prompt."""
        return self.token_ids(sample.messages[:1], generation_prompt=True)

    def encode(self, sample: Sample) -> EncodedSample:
        """The sample with its labels: everything up to the length of the prompt's own token ids is IGNORED.

        Raises:
            InputError: no response token is left, so the loss is undefined.
        """
        input_ids = self.token_ids(sample.messages, generation_prompt=False)
        labels = input_ids.copy()
        labels[: len(self.prompt_ids(sample))] = IGNORED
        return _checked(EncodedSample(sample.id, input_ids, labels))


def _checked(sample: EncodedSample) -> EncodedSample:
    # A causal LM predicts position t from t - 1, so a label in the first position never enters the loss.
    if not (sample.labels[1:] != IGNORED).any():
        raise InputError(
            f"sample {sample.id} has no response tokens (its answer is empty or cut away), so its loss is undefined; "
            'remove the sample, or set context = "drop" for the model if its prompt fills the context.'
        )
    return sample


def encode_samples(
    samples: Sequence[Sample],
    tokenizer: ChatTokenizer,
    max_positions: int | None,
    learned_positions: bool,
    policy: ContextPolicy = "auto",
) -> Encoding:
    """Encodes samples and applies the context policy to those longer than `max_positions` tokens.

    "keep" leaves them whole (rotary models extrapolate), "truncate" cuts their end, "drop" leaves them out; "auto" is
    "keep", or an error where positions are learned, since there is no embedding for what lies beyond.

    Raises:
        InputError: a sample is too long for learned positions under "auto" or "keep", or has no response tokens.
    """
    result = Encoding([])
    for sample in samples:
        encoded = tokenizer.encode(sample)
        if max_positions is not None and encoded.length > max_positions:
            if policy == "drop":
                result.dropped.append(sample.id)
                continue
            if policy == "truncate":
                encoded = _checked(
                    EncodedSample(encoded.id, encoded.input_ids[:max_positions], encoded.labels[:max_positions])
                )
                result.truncated.append(sample.id)
            elif learned_positions:
                raise InputError(
                    f"sample {sample.id} has {encoded.length} tokens, but the model has learned positions for "
                    f'{max_positions} only; set context = "truncate" or "drop" for this model.'
                )
            else:
                result.kept_long.append(sample.id)
        result.samples.append(encoded)
    return result
