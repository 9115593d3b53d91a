"""`model_generated`: the paraphrased prompts answered by the model under study."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from gradsim_assets.core.datasets.generation.answers import Generated, generate_answers, room_for_answer
from gradsim_assets.core.datasets.generation.meter import Progress
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy
from gradsim_assets.core.samples import Message, Sample, sample_frame, samples_of

#: Which answers of a conversation are the model's: the last one, or every one in turn, each to what it answered itself before.
Generate = Literal["last", "every"]

#: Answers some samples' prompts, in order.
Ask = Callable[[Sequence[Sample]], list[Generated]]


@dataclass
class _Answered:
    """A conversation while the model answers it: its messages so far, and the answers."""

    sample: Sample
    messages: list[Message]
    #: Where its answers stand among the messages.
    places: list[int]
    answers: list[Generated]

    def before(self, turn: int) -> Sample:
        """The conversation up to one of its answers, which is yet to be given."""
        return Sample.of(self.sample.id, self.messages[: self.places[turn]], self.sample.tools)

    def put(self, turn: int, answer: Generated) -> None:
        """Takes in the answer of a turn."""
        self.messages[self.places[turn] : self.places[turn] + 1] = [{"role": "assistant", "content": answer.answer}]
        self.answers.append(answer)


def model_generated(
    paraphrased: pl.DataFrame,
    originals: pl.DataFrame,
    loaded: LoadedModel,
    policy: ContextPolicy,
    *,
    identity: str,
    store: Path,
    progress: Progress,
    log: Callable[[str], None],
    generate: Generate = "last",
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The table `model_generated` of a shard, and how many of its answers are cut, left out, decoded alone or doubtful.

    `originals` is the table `lima`. Left out are prompts that fill the context under the policy "drop", those that the model's own
    answers have filled under every policy, and plain texts, which ask nothing. Variants that are missing from `paraphrased` are not
    counted. `identity`, `store`, `progress` and `log` are those of `generate_answers`. What tools said and what they were asked
    stays as it is in the paraphrase.

    Raises:
        InputError: as `generate_answers`; under another policy a prompt leaves no room for an answer; a paraphrase has no
            original.
    """

    def ask(samples: Sequence[Sample]) -> list[Generated]:
        return generate_answers(
            loaded.model,
            loaded.tokenizer,
            samples,
            max_positions=loaded.generation_positions,
            device=loaded.device,
            progress=progress,
            store=store,
            identity=identity,
            log=log,
        )

    samples = samples_of(paraphrased)
    asking = [sample for sample in samples if not sample.is_plain]
    answered = _answered(asking, ask, lambda sample: _has_room(sample, loaded), generate, drops=policy == "drop")
    frame = answer_frame(answered, originals)
    answers = [answer for one in answered for answer in one.answers]
    return frame, {
        "truncated": int(frame["truncated"].sum()),
        "dropped": len(samples) - len(answered),
        "decoded_alone": sum(answer.alone for answer in answers),
        "verbatim": int(frame["verbatim"].sum()),
        "prompt_no_prefix": sum(not loaded.tokenizer.border_is_sure(sample) for sample in samples_of(frame)),
    }


def _has_room(sample: Sample, loaded: LoadedModel) -> bool:
    return room_for_answer(loaded.tokenizer.prompt_ids(sample), loaded.tokenizer, loaded.generation_positions) > 0


def _answered(
    samples: Sequence[Sample], ask: Ask, has_room: Callable[[Sample], bool], generate: Generate, drops: bool
) -> list[_Answered]:
    """The samples with the model's answers, one turn of all of them at a time.

    Left out are those that the model's own answers leave no room for another, and where the policy drops, all without room.
    """
    answered = [_Answered(sample, sample.messages, _places(sample, generate), []) for sample in samples]
    turn = 0
    while waiting := [one for one in answered if turn < len(one.places)]:
        lost = {one.sample.id for one in waiting if (drops or turn) and not has_room(one.before(turn))}
        answered = [one for one in answered if one.sample.id not in lost]
        waiting = [one for one in waiting if one.sample.id not in lost]
        for one, answer in zip(waiting, ask([one.before(turn) for one in waiting]), strict=True):
            one.put(turn, answer)
        turn += 1
    return answered


def _places(sample: Sample, generate: Generate) -> list[int]:
    """Where the answers of a conversation stand that the model is to give; calls of tools are not its own."""
    last = len(sample.prompt)
    spoken = [
        n for n, message in enumerate(sample.prompt) if message["role"] == "assistant" and "tool_calls" not in message
    ]
    return [*(spoken if generate == "every" else []), last]


def answer_frame(answered: Sequence[_Answered], originals: pl.DataFrame) -> pl.DataFrame:
    """The table `model_generated` of answered conversations."""
    samples = [Sample.of(one.sample.id, one.messages, one.sample.tools) for one in answered]
    return with_text_overlap(sample_frame(samples), originals, "model_generated").with_columns(
        prompt_tokens=pl.Series([one.answers[-1].prompt_tokens for one in answered], dtype=pl.Int64()),
        completion_tokens=pl.Series(
            [sum(answer.completion_tokens for answer in one.answers) for one in answered], dtype=pl.Int64()
        ),
        truncated=pl.Series([any(answer.truncated for answer in one.answers) for one in answered], dtype=pl.Boolean()),
    )
