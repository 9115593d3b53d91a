"""`model_generated`: which prompts can be answered, and the table of the answers."""

import polars as pl

from gradsim_assets.configuration import ModelSettings
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.samples import Sample, parse_samples


def answerable(paraphrased: pl.DataFrame, loaded: LoadedModel, settings: ModelSettings) -> tuple[list[Sample], int]:
    """The samples whose prompt leaves room for an answer, and how many were left out (context = "drop" alone does so)."""
    samples = parse_samples(paraphrased.to_dicts(), "paraphrased")
    if settings.context != "drop":
        return samples, 0
    room = loaded.generation_positions
    kept = [sample for sample in samples if len(loaded.tokenizer.prompt_ids(sample)) < room]
    return kept, len(samples) - len(kept)
