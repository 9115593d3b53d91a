"""`model_generated`: the paraphrased prompts answered by the model under study."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from gradsim_assets.core.datasets.generation.answers import Generated, generate_answers
from gradsim_assets.core.datasets.generation.decoder import Progress
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy
from gradsim_assets.core.samples import Sample, parse_samples, sample_frame


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
) -> tuple[pl.DataFrame, int]:
    """The table `model_generated` of a shard, and how many of its prompts were left out.

    `originals` is the table `lima`. The policy "drop" leaves out prompts that fill the context. `identity`, `store`,
    `progress` and `log` are those of `generate_answers`.

    Raises:
        InputError: as `generate_answers`; under another policy a prompt leaves no room for an answer; a paraphrase has no
            original.
    """
    samples = parse_samples(paraphrased.to_dicts(), "paraphrased")
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
    return answer_frame(kept, answers, originals), len(samples) - len(kept)


def _has_room(sample: Sample, loaded: LoadedModel) -> bool:
    return len(loaded.tokenizer.prompt_ids(sample)) < loaded.generation_positions


def answer_frame(samples: Sequence[Sample], answers: Sequence[Generated], originals: pl.DataFrame) -> pl.DataFrame:
    """The table `model_generated` of samples with the model's answers in place of theirs."""
    answered = [Sample(sample.id, sample.user, answer.answer) for sample, answer in zip(samples, answers, strict=True)]
    return with_text_overlap(sample_frame(answered), originals, "model_generated").with_columns(
        prompt_tokens=pl.Series([answer.prompt_tokens for answer in answers], dtype=pl.Int64()),
        completion_tokens=pl.Series([answer.completion_tokens for answer in answers], dtype=pl.Int64()),
        truncated=pl.Series([answer.truncated for answer in answers], dtype=pl.Boolean()),
    )
