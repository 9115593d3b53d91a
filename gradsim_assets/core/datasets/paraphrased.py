"""`paraphrased`: the originals rewritten, out of the embedded demo or a file, or by a chat model."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.paraphrasing import ParaphraseResult
from gradsim_assets.core.datasets.sample_files import read_rows
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, check_variants, parse_samples, sample_frame
from gradsim_assets.demo import DEMO

#: Stands for a chat model among the sources of paraphrases.
OPENAI = "openai"


def load_paraphrases(source: str, originals_source: str, count: int = 0) -> list[Sample]:
    """The paraphrases of a source ("demo" or a file) of the originals that `load_originals` gives, in their order.

    Raises:
        InputError: as `load_originals`; a variant has no original; or none is left of the first `count` originals.
    """
    rows, name = _rows(source, originals_source)
    variants = parse_samples(rows, name)
    originals = load_originals(originals_source)
    check_variants(variants, originals, name)
    by_id = {variant.id: variant for variant in variants}
    chosen = originals[:count] if count else originals
    kept = [by_id[original.id] for original in chosen if original.id in by_id]
    if not kept:
        raise InputError(f"{name} holds no paraphrase of the first {count} originals; raise data.samples.")
    return kept


def _rows(source: str, originals_source: str) -> tuple[list[dict[str, Any]], str]:
    """Rows {id, messages}, and the name by which errors call the source."""
    if source != DEMO:
        return read_rows(source, ("paraphrased_messages", "messages")), source
    if originals_source != DEMO:
        raise InputError(
            'data.paraphrases = "demo" fits data.originals = "demo" only; '
            'name a file with id and messages, or set it to "openai".'
        )
    from gradsim_assets.demo.data import load_paraphrases

    return load_paraphrases(), "the demo dataset"


def given_paraphrases(samples: Sequence[Sample], source: str) -> pl.DataFrame:
    """The table `paraphrased` of paraphrases that a source holds; what a chat model would tell of them is null."""
    return sample_frame(samples).with_columns(
        provider=pl.lit(DEMO if source == DEMO else "file"),
        paraphrase_model=pl.lit(None, pl.String()),
        prompt_tokens=pl.lit(None, pl.Int64()),
        completion_tokens=pl.lit(None, pl.Int64()),
        flag=pl.lit(None, pl.String()),
    )


def written_paraphrases(result: ParaphraseResult, service: str) -> pl.DataFrame:
    """The table `paraphrased` of what a chat model wrote; `service` is where it was asked."""
    ids = [sample.id for sample in result.samples]
    return sample_frame(result.samples).with_columns(
        provider=pl.lit(service),
        paraphrase_model=pl.Series([result.models.get(i) for i in ids], dtype=pl.String()),
        prompt_tokens=pl.Series([result.prompt_tokens.get(i) for i in ids], dtype=pl.Int64()),
        completion_tokens=pl.Series([result.completion_tokens.get(i) for i in ids], dtype=pl.Int64()),
        flag=pl.Series([result.flags.get(i) for i in ids], dtype=pl.String()),
    )
