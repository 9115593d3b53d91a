"""`bm25_candidates`: the originals that each variant is compared with."""

import dagster as dg
import polars as pl

from gradsim_assets.core.bm25 import Index
from gradsim_assets.core.samples import samples_of
from gradsim_assets.defs.common import code_version, column_schema, table_result
from gradsim_assets.partitions import Partitions
from gradsim_assets.schemas import BM25_CANDIDATES
from gradsim_assets.settings import Candidates, Settings


def candidate_frame(originals: pl.DataFrame, variants: pl.DataFrame, candidates: Candidates) -> pl.DataFrame:
    """The table `bm25_candidates`: every variant in order with its candidates by rank."""
    corpus = samples_of(originals)
    index = Index([sample.user for sample in corpus])
    position = {sample.id: number for number, sample in enumerate(corpus)}
    k = None if candidates == "all" else candidates
    rows = [
        (variant.id, corpus[found.index].id, found.rank, found.score, found.forced)
        for variant in samples_of(variants)
        for found in index.candidates(variant.user, position[variant.id], k)
    ]
    return pl.DataFrame(rows, schema=BM25_CANDIDATES.empty().schema, orient="row")


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The candidates for one configuration."""
    candidates = settings.data.candidates

    @dg.asset(
        group_name="candidates",
        partitions_def=partitions.shards,
        kinds={"polars", "parquet"},
        metadata=column_schema(BM25_CANDIDATES),
        code_version=code_version("core/bm25.py", config=str(candidates)),
        description=(
            "The originals that each variant is compared with: BM25 over user prompts, top `data.candidates`, the own "
            "original always among them (`forced` where BM25 alone would have missed it)."
        ),
    )
    def bm25_candidates(
        context: dg.AssetExecutionContext, lima: pl.DataFrame, paraphrased: pl.DataFrame
    ) -> dg.MaterializeResult[pl.DataFrame]:
        frame = candidate_frame(lima, paraphrased, candidates)
        forced = int(frame["forced"].sum())
        context.log.info(f"{frame.height} pairs of {paraphrased.height} variants, {forced} own originals forced in")
        return table_result(BM25_CANDIDATES, frame, metadata={"forced": forced}, provenance={"candidates": candidates})

    return [bm25_candidates]
