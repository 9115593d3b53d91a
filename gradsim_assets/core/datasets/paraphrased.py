"""`paraphrased`: the originals rewritten, out of a file or by a chat model."""

from collections.abc import Sequence

import polars as pl

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.paraphrasing import ParaphraseResult
from gradsim_assets.core.datasets.sample_files import Source, read_rows
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Missing, Sample, check_variants, parse_variants, sample_frame

#: Stands for a chat model among the sources of paraphrases.
OPENAI = "openai"


def load_paraphrases(location: Source | str, originals_source: Source | str, count: int = 0) -> list[Sample | Missing]:
    """The paraphrases that a file holds of the originals that `load_originals` gives, in their order; missing where it holds null.

    Raises:
        InputError: as `load_originals`; a variant has no original; or none is left of the first `count` originals.
    """
    variants = _variants(location)
    originals = load_originals(originals_source)
    check_variants(variants, originals, str(location))
    by_id = {variant.id: variant for variant in variants}
    chosen = originals[:count] if count else originals
    kept = [by_id[original.id] for original in chosen if original.id in by_id]
    if all(isinstance(variant, Missing) for variant in kept):
        which = (
            f" of the first {count} originals; raise data.samples"
            if count
            else ": all of its rows are null; fill them in"
        )
        raise InputError(f"{location} holds no paraphrase{which}.")
    return kept


def sorted_paraphrases(location: Source | str, ids: Sequence[str] | None) -> list[Sample | Missing]:
    """The paraphrases that a file holds of originals of these ids, in their order; all of the file in its own (None).

    Raises InputError as `read_rows` and `parse_variants`.
    """
    variants = _variants(location)
    by_id = {variant.id: variant for variant in variants}
    return variants if ids is None else [by_id[name] for name in ids if name in by_id]


def _variants(location: Source | str) -> list[Sample | Missing]:
    source = Source(location) if isinstance(location, str) else location
    return parse_variants(read_rows(source, paraphrases=True).rows, source.location)


def given_paraphrases(variants: Sequence[Sample | Missing], originals: pl.DataFrame, provider: str) -> pl.DataFrame:
    """The table `paraphrased` of paraphrases that are given; what a chat model would tell of them is null.

    `originals` is the table `lima`. Raises InputError where it lacks the original of a paraphrase.
    """
    why = [variant.why if isinstance(variant, Missing) else None for variant in variants]
    return with_text_overlap(sample_frame(variants), originals, "paraphrased").with_columns(
        provider=pl.lit(provider),
        paraphrase_model=pl.lit(None, pl.String()),
        prompt_tokens=pl.lit(None, pl.Int64()),
        completion_tokens=pl.lit(None, pl.Int64()),
        flag=pl.Series(why, dtype=pl.String()),
    )


def written_paraphrases(result: ParaphraseResult, originals: pl.DataFrame, service: str) -> pl.DataFrame:
    """The table `paraphrased` of what a chat model wrote; `service` is where it was asked.

    `originals` is the table `lima`. Raises InputError where it lacks the original of a paraphrase.
    """
    ids = [variant.id for variant in result.variants]
    return with_text_overlap(sample_frame(result.variants), originals, "paraphrased").with_columns(
        provider=pl.lit(service),
        paraphrase_model=pl.Series([result.models.get(i) for i in ids], dtype=pl.String()),
        prompt_tokens=pl.Series([result.prompt_tokens.get(i) for i in ids], dtype=pl.Int64()),
        completion_tokens=pl.Series([result.completion_tokens.get(i) for i in ids], dtype=pl.Int64()),
        flag=pl.Series([result.flags.get(i) for i in ids], dtype=pl.String()),
    )
