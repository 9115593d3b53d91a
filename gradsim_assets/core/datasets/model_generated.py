"""`model_generated`: the paraphrased prompts answered by the model under study."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from gradsim_assets.core.datasets.generation.answers import Generated, generate_answers, room_for_answer
from gradsim_assets.core.datasets.generation.meter import Progress
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy
from gradsim_assets.core.samples import Sample, sample_frame, samples_of


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
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The table `model_generated` of a shard, and how many of its answers are cut, left out, decoded alone or doubtful.

    `originals` is the table `lima`. The policy "drop" leaves out prompts that fill the context; variants that are missing
    from `paraphrased` have none. `identity`, `store`, `progress` and `log` are those of `generate_answers`.

    Raises:
        InputError: as `generate_answers`; under another policy a prompt leaves no room for an answer; a paraphrase has no
            original.
    """
    samples = samples_of(paraphrased)
    kept = [sample for sample in samples if policy != "drop" or _has_room(sample, loaded)]
    answers = generate_answers(
        loaded.model,
        loaded.tokenizer,
        kept,
        max_positions=loaded.generation_positions,
        device=loaded.device,
        progress=progress,
        store=store,
        identity=identity,
        log=log,
    )
    frame = answer_frame(kept, answers, originals)
    return frame, {
        "truncated": sum(answer.truncated for answer in answers),
        "dropped": len(samples) - len(kept),
        "decoded_alone": sum(answer.alone for answer in answers),
        "verbatim": int(frame["verbatim"].sum()),
        "prompt_no_prefix": sum(not loaded.tokenizer.border_is_sure(sample) for sample in samples_of(frame)),
    }


def _has_room(sample: Sample, loaded: LoadedModel) -> bool:
    return room_for_answer(loaded.tokenizer.prompt_ids(sample), loaded.tokenizer, loaded.generation_positions) > 0


def answer_frame(samples: Sequence[Sample], answers: Sequence[Generated], originals: pl.DataFrame) -> pl.DataFrame:
    """The table `model_generated` of samples with the model's answers in place of theirs."""
    answered = [Sample(sample.id, sample.user, answer.answer) for sample, answer in zip(samples, answers, strict=True)]
    return with_text_overlap(sample_frame(answered), originals, "model_generated").with_columns(
        prompt_tokens=pl.Series([answer.prompt_tokens for answer in answers], dtype=pl.Int64()),
        completion_tokens=pl.Series([answer.completion_tokens for answer in answers], dtype=pl.Int64()),
        truncated=pl.Series([answer.truncated for answer in answers], dtype=pl.Boolean()),
    )
