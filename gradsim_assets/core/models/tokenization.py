"""From a sample to the token ids and labels that its loss is defined on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.answer_spans import LossOn, Rendered, Span, answer_spans
from gradsim_assets.core.models.chat_templates import (
    TULU_TEMPLATE,
    check_template,
    opens_answers,
    render,
    tokens_behind_answer,
)
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.samples import Message, Sample

ContextPolicy = Literal["auto", "keep", "truncate", "drop"]


@dataclass(frozen=True)
class Encoding:
    """Encoded samples in order, the ids for which the context policy did something, and those of doubtful borders.

    `prompt_no_prefix`: of one exchange, or an answer of the model, the prompt's tokens are not those that the whole begins with (tokens that merge over the border,
    templates that open the answer with more than its header or with none), or the template changes or leaves out part of a
    text (reasoning in an answer, say), so the loss is not on just the answer.
    """

    samples: list[EncodedSample]
    kept_long: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    prompt_no_prefix: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ChatTokenizer:
    """A Hugging Face tokenizer with the chat template in force.

    `template` is "tulu", "model" (the tokenizer's own) or the text of a Jinja template; `vocabulary` the number of token
    ids that the model knows, None where there is no model; `loss_on` says which tokens of a conversation the loss counts:
    all answers, the last one, or every token.
    """

    tokenizer: Any
    template: str = "tulu"
    vocabulary: int | None = None
    loss_on: LossOn = "assistant"

    def __post_init__(self) -> None:
        name = getattr(self.tokenizer, "name_or_path", "") or "the tokenizer"
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                f"{name} has no EOS token, so an answer has no end; set eos_token in its tokenizer_config.json."
            )
        if self.template == "model" and not self.tokenizer.chat_template:
            raise InputError(f'{name} has no chat template of its own; set chat_template = "tulu" for this model.')
        check_template(self.tokenizer, self.jinja)

    @property
    def jinja(self) -> str | None:
        """The template's text; None stands for the tokenizer's own."""
        return {"tulu": TULU_TEMPLATE, "model": None}.get(self.template, self.template)

    @cached_property
    def opens_answers(self) -> bool:
        """Whether the template has a generation prompt; without one, an answer's header counts as part of the answer."""
        return opens_answers(self.tokenizer, self.jinja)

    @cached_property
    def tokens_behind_answer(self) -> int:
        """Tokens that the template puts behind an answer (EOS, say)."""
        return tokens_behind_answer(self.tokenizer, self.jinja)

    def text(self, messages: Sequence[Message], generation_prompt: bool, tools: Sequence[Any] | None = None) -> str:
        """The conversation as one string; raises InputError where the template fails."""
        return render(self.tokenizer, self.jinja, messages, generation_prompt, tools)

    def token_ids(
        self, messages: Sequence[Message], generation_prompt: bool, tools: Sequence[Any] | None = None
    ) -> np.ndarray:
        """Token ids (int64, length T) of the conversation; special tokens come from the template alone."""
        return self._ids(self.text(messages, generation_prompt, tools))

    def _ids(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def _whole_ids(self, sample: Sample) -> np.ndarray:
        return self.token_ids(sample.messages, False, sample.tools)

    def _plain_ids(self, sample: Sample) -> np.ndarray:
        """Token ids of a text without turns, as in pretraining: with what the tokenizer puts around texts, and EOS at its end."""
        ids, end = self.tokenizer(sample.user)["input_ids"], self.tokenizer.eos_token_id
        return np.asarray(ids if ids[-1:] == [end] else [*ids, end], dtype=np.int64)

    def prompt_ids(self, sample: Sample) -> np.ndarray:
        """Token ids of what the last answer answers, with the generation prompt; raises InputError for a token that the model lacks."""
        return self._known(sample, self.token_ids(sample.prompt, True, sample.tools))

    def encode(self, sample: Sample) -> EncodedSample:
        """The sample with its labels: IGNORED on what the loss does not count.

        Of one exchange the loss counts all but the tokens that the prompt and the whole begin with, of other conversations the
        `answer_spans`; of plain texts, and with loss_on = "all", it counts every token.

        Raises:
            InputError: no response token is left, so the loss is undefined; or the model lacks one of its tokens; or as
                `answer_spans`.
        """
        return self._encode(sample)[0]

    def border_is_sure(self, sample: Sample) -> bool:
        """Whether the loss of an answered sample is on just its answers: of one exchange, whether its prompt is what the whole begins
        with, and its answer, unchanged, all that follows."""
        if sample.conversation is None:
            return self._border(sample)[2]
        return answer_spans(Rendered(self.tokenizer, self.jinja, sample), "last", self.opens_answers, True)[1]

    def answer_text(self, prompt: Sequence[int], answer: Sequence[int]) -> str:
        """The text that stands for an answer's tokens behind its prompt.

        Tokenizers like Llama 2's leave out the space that a text begins with, so the answer is not decoded by itself.
        """
        before, whole = (self.decode([*prompt, *tokens]) for tokens in ((), answer))
        return whole[len(before) :] if whole.startswith(before) else self.decode(answer)

    def decode(self, tokens: Sequence[int], special_tokens: bool = False) -> str:
        """The text that tokens stand for, with special tokens or without."""
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def _encode(self, sample: Sample, generated: bool = False) -> tuple[EncodedSample, bool]:
        """The sample, and whether its loss is for sure on what it should be on."""
        try:
            input_ids, spans, sure = self._counted(sample, generated)
        except InputError as error:  # the template's own know no sample
            named = f"sample {sample.id}"
            raise error if str(error).startswith(named) else InputError(f"{named}: {error}") from error
        labels = np.full_like(input_ids, IGNORED)
        for start, end in spans:
            labels[start:end] = input_ids[start:end]
        return _checked(EncodedSample(sample.id, input_ids, labels)), sure

    def _counted(self, sample: Sample, generated: bool) -> tuple[np.ndarray, list[Span], bool]:
        """Token ids of the whole, those that the loss counts, and whether they are sure."""
        if sample.is_plain or self.loss_on == "all":
            whole = self._known(sample, self._plain_ids(sample) if sample.is_plain else self._whole_ids(sample))
            return whole, [(0, len(whole))], True
        if sample.conversation is None:
            input_ids, border, sure = self._border(sample)
            return input_ids, [(border, len(input_ids))], sure
        rendered = Rendered(self.tokenizer, self.jinja, sample)
        input_ids = self._known(sample, rendered.ids)
        return input_ids, *answer_spans(rendered, self.loss_on, self.opens_answers, generated)

    def _border(self, sample: Sample) -> tuple[np.ndarray, int, bool]:
        """Token ids of the whole, with how many of them are the prompt's, too, and whether what follows is just the answer."""
        prompt, text = self.prompt_ids(sample), self.text(sample.messages, generation_prompt=False)
        whole = self._known(sample, self._ids(text))
        shorter = min(len(prompt), len(whole))
        unlike = np.flatnonzero(prompt[:shorter] != whole[:shorter])
        border = int(unlike[0]) if len(unlike) else shorter
        unchanged = sample.user.strip() in text and sample.assistant.strip() in text
        return whole, border, border == len(prompt) and self.opens_answers and unchanged

    def _known(self, sample: Sample, token_ids: np.ndarray) -> np.ndarray:
        if self.vocabulary is not None and len(token_ids) and (largest := int(token_ids.max())) >= self.vocabulary:
            raise InputError(
                f"sample {sample.id} has the token {self.tokenizer.convert_ids_to_tokens(largest)!r} (id {largest}), but the "
                f"model has embeddings for {self.vocabulary} tokens only; give it the tokenizer that it was trained with."
            )
        return token_ids


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
    takes: Callable[[int], bool],
    policy: ContextPolicy = "auto",
    generated: bool = False,
) -> Encoding:
    """Encodes samples and applies the context policy to those longer than `max_positions` tokens.

    "keep" leaves them whole (rotary models extrapolate), "truncate" cuts their end, "drop" leaves them out; "auto" is
    "keep". Kept samples must be of a length that the model `takes`, which is asked for the longest. Answers that the model
    `generated` are cut instead: they end at its context, and their text may take more tokens than were generated.

    Raises:
        InputError: a sample is kept that is longer than the model takes, or has no response tokens.
    """
    encoded = [tokenizer._encode(sample, generated) for sample in samples]
    longest = max((sample for sample, _ in encoded), key=lambda sample: sample.length, default=None)
    too_long = longest is not None and (max_positions is None or longest.length > max_positions)
    if longest is not None and too_long and policy in ("auto", "keep") and not takes(longest.length):
        if not generated or max_positions is None:
            raise _too_long(longest, max_positions)
        policy = "truncate"
    result = Encoding([])
    for sample, sure in encoded:
        if max_positions is not None and sample.length > max_positions:
            if policy == "drop":
                result.dropped.append(sample.id)
                continue
            if policy == "truncate":
                sample = _checked(
                    EncodedSample(sample.id, sample.input_ids[:max_positions], sample.labels[:max_positions])
                )
                result.truncated.append(sample.id)
            else:
                result.kept_long.append(sample.id)
        if not sure:
            result.prompt_no_prefix.append(sample.id)
        result.samples.append(sample)
    return result


def _too_long(sample: EncodedSample, max_positions: int | None) -> InputError:
    if max_positions is None:
        return InputError(
            f"sample {sample.id} has {sample.length} tokens, more than the model takes, and its configuration names no "
            "context to cut samples to; remove the long samples."
        )
    return InputError(
        f"sample {sample.id} has {sample.length} tokens, but the model has positions for {max_positions} only; "
        'set context = "truncate" or "drop" for this model.'
    )
