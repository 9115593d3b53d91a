"""The tables that a report is made of, setting by setting."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class SettingResults:
    """One setting's tables, as their schemas describe them; None for those that do not exist."""

    similarity: pl.DataFrame | pl.LazyFrame  # gradient_similarity
    accuracy: pl.DataFrame
    agreement: pl.DataFrame
    greedy: pl.DataFrame
    self_similarity: pl.DataFrame
    retrieval: pl.DataFrame
    bm25: pl.DataFrame | None = None
    variants: pl.DataFrame | None = None  # id, messages, text_overlap, verbatim
    first_order: pl.DataFrame | None = None
    tail_patch: pl.DataFrame | None = None
    controls: pl.DataFrame | None = None  # control_comparison
    linear_datamodeling_score: pl.DataFrame | None = None
    removal: pl.DataFrame | None = None
    token_attribution: pl.DataFrame | None = None
    by_group: pl.DataFrame | None = None  # retrieval_by_group
    prompt_no_prefix: int = 0  # samples of which the prompt is not what the whole begins with; once for every shard
    checked_pairs: int | None = None  # pairs recomputed by plain autograd, over all shards; None where nobody knows
