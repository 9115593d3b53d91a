"""The tables that a report is made of, setting by setting."""

from collections.abc import Collection
from dataclasses import dataclass, replace

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
    products: str | None = None  # which dot_products all of it was made from; None where nobody knows

    def of(self, variants: Collection[str]) -> "SettingResults":
        """The same with the rows of these variants alone, where rows are of variants."""
        here = pl.col("variant_id").is_in(list(variants))
        return replace(
            self,
            similarity=self.similarity.filter(here),
            self_similarity=self.self_similarity.filter(here),
            bm25=None if self.bm25 is None else self.bm25.filter(here),
            variants=None if self.variants is None else self.variants.filter(pl.col("id").is_in(list(variants))),
            token_attribution=None if self.token_attribution is None else self.token_attribution.filter(here),
        )
