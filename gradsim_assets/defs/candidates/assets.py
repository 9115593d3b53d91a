"""`bm25_candidates`: the originals that each variant is compared with."""

from collections.abc import Iterable

import dagster as dg
import polars as pl

from gradsim_assets.core.bm25 import Index, top_candidates
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import samples_of
from gradsim_assets.defs.common import code_version, column_schema, table_result
from gradsim_assets.io.tables import Partition, Tables, fingerprint
from gradsim_assets.partitions import Partitions
from gradsim_assets.schemas import BM25_CANDIDATES, LIMA, PARAPHRASED
from gradsim_assets.settings import Candidates, Settings, top_k


def candidate_frame(originals: pl.DataFrame, variants: pl.DataFrame, candidates: Candidates) -> pl.DataFrame:
    """The table `bm25_candidates`: every variant in order with its candidates by rank."""
    corpus = samples_of(originals)
    index = Index([sample.user for sample in corpus])
    position = {sample.id: number for number, sample in enumerate(corpus)}
    k = top_k(candidates)
    rows = [
        (variant.id, corpus[found.index].id, found.rank, found.score, found.forced)
        for variant in samples_of(variants)
        for found in index.candidates(variant.user, position[variant.id], k)
    ]
    return pl.DataFrame(rows, schema=BM25_CANDIDATES.empty().schema, orient="row")


def model_candidates(tables: Tables, shards: Iterable[str], candidates: Candidates | None) -> pl.DataFrame:
    """What a model that asks for so many candidates uses of `bm25_candidates`; None: all that is there.

    Raises:
        InputError: the table holds fewer.
    """
    key, partitions = [BM25_CANDIDATES.name], [Partition(shard=shard) for shard in shards]
    frame = tables.scan(key, partitions).collect()
    if candidates is None:
        return frame
    for partition in partitions:
        held = tables.provenance(key, partition).get("candidates")
        if held is not None and held != "all" and (candidates == "all" or candidates > held):
            raise InputError(
                f"bm25_candidates {partition} holds {held} candidates of each variant, and {candidates} are asked for; "
                "materialise it again first."
            )
    return top_candidates(frame, top_k(candidates))


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The candidates for one configuration."""
    default, most = settings.data.candidates, settings.most_candidates

    @dg.asset(
        group_name="candidates",
        partitions_def=partitions.shards,
        kinds={"polars", "parquet"},
        metadata=column_schema(BM25_CANDIDATES),
        code_version=code_version("core/bm25.py", config=f"{default} {most}"),
        description=(
            "The originals that each variant is compared with: BM25 over user prompts, the own original always among them "
            "(`forced` where BM25 alone would have missed it). Holds the most candidates that any model asks for; one that "
            "asks for fewer takes the best of them, its own original in place of the last one where it is not among those."
        ),
    )
    def bm25_candidates(
        context: dg.AssetExecutionContext, lima: pl.DataFrame, paraphrased: pl.DataFrame
    ) -> dg.MaterializeResult[pl.DataFrame]:
        frame = candidate_frame(lima, paraphrased, most)
        forced = int(frame["forced"].sum())
        context.log.info(f"{frame.height} pairs of {paraphrased.height} variants, {forced} own originals forced in")
        # What models without a number of their own use: for them nothing changes when another model asks for more.
        version = fingerprint(top_candidates(frame, top_k(default)))
        provenance = {
            "candidates": most,
            LIMA.name: fingerprint(lima),
            PARAPHRASED.name: fingerprint(paraphrased),
        }
        return table_result(
            BM25_CANDIDATES, frame, metadata={"forced": forced}, provenance=provenance, data_version=version
        )

    return [bm25_candidates]
