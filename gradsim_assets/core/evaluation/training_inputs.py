"""From tables of samples to all that a retraining depends on."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from gradsim_assets.core.evaluation.retraining import Start, Training
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy, encode_samples
from gradsim_assets.core.samples import Sample, samples_of
from gradsim_assets.core.tables.schemas import MODEL_GENERATED, PARAPHRASED
from gradsim_assets.core.training.recipe import TrainingRecipe


def training_inputs(
    recipe: TrainingRecipe,
    start: Start,
    originals: pl.DataFrame,
    variants: Mapping[str, pl.DataFrame],
    loaded: LoadedModel,
    policy: ContextPolicy,
) -> Training:
    """Encodes the originals and the variants of both settings as they are for gradients; what the policy drops is not there.

    Raises:
        InputError: as `encode_samples`.
    """

    def encode(samples: list[Sample], setting: str = "") -> list[EncodedSample]:
        generated = setting == MODEL_GENERATED.name
        return encode_samples(samples, loaded.tokenizer, loaded.max_positions, loaded.takes, policy, generated).samples

    known = samples_of(originals)
    encoded = encode(known)
    return Training(
        recipe,
        start,
        encoded,
        _reworded(encoded, known, variants[PARAPHRASED.name], encode) if recipe.reworded_prompts else (),
        {setting: encode(samples_of(frame), setting) for setting, frame in variants.items()},
        loaded.device,
    )


def _reworded(
    encoded: Sequence[EncodedSample],
    known: Sequence[Sample],
    paraphrased: pl.DataFrame,
    encode: Callable[[list[Sample]], list[EncodedSample]],
) -> list[EncodedSample | None]:
    """The encoded originals with what others say as in their paraphrases; None where there is none of the same turns."""
    originals = {sample.id: sample for sample in known}
    both = ((one, originals[one.id]) for one in samples_of(paraphrased) if one.id in originals)
    prompts = [_with_answers(one, original) for one, original in both if _roles(one) == _roles(original)]
    found = {sample.id: sample for sample in encode(prompts)}
    return [found.get(sample.id) for sample in encoded]


def _roles(sample: Sample) -> list[str]:
    return [message["role"] for message in sample.messages]


def _with_answers(paraphrase: Sample, original: Sample) -> Sample:
    """A paraphrase with the original's own answers, turn by turn."""
    turns = zip(paraphrase.messages, original.messages, strict=True)
    return Sample.of(
        original.id, [own if own["role"] == "assistant" else reworded for reworded, own in turns], original.tools
    )
