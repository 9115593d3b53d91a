"""`bm25_candidates`: the originals that each variant is compared with."""

from collections.abc import Iterable

import polars as pl

from gradsim_assets.core.candidates.bm25 import Retriever, Tokens, ZeroScores
from gradsim_assets.core.candidates.candidate_count import Candidates, top_k
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import samples_of
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES
from gradsim_assets.core.tables.storage import Partition, Tables


def top_candidates(frame: pl.DataFrame, k: int | None) -> pl.DataFrame:
    """What `Index.candidates` gives for a smaller k, from a table `bm25_candidates` of a larger one; None: all of it.

    The truth is always in the larger table with its score, so that it can replace the last of the k where it is missing.
    """
    if k is None:
        return frame
    own, rank = pl.col("variant_id") == pl.col("original_id"), pl.col("rank")
    lost = (own & (rank > k)).any().over("variant_id")
    kept = frame.filter(own | (rank < k) | ((rank == k) & ~lost))
    return kept.with_columns(
        forced=pl.col("forced") | (rank > k),
        zero_score=pl.col("zero_score") & (rank <= k),
        rank=rank.clip(upper_bound=k),
    )


def candidate_frame(
    originals: pl.DataFrame,
    variants: pl.DataFrame,
    candidates: Candidates | None,
    tokens: Tokens = str.split,
    zero_scores: ZeroScores = "random",
) -> pl.DataFrame:
    """The table `bm25_candidates`: every variant in order with its candidates by rank."""
    corpus = samples_of(originals)
    retriever = Retriever(corpus, tokens, zero_scores)
    k = top_k(candidates)
    rows = [
        (variant.id, corpus[found.index].id, found.rank, found.score, found.forced, found.zero_score)
        for variant in samples_of(variants)
        for found in retriever.candidates(variant, k)
    ]
    return pl.DataFrame(rows, schema=BM25_CANDIDATES.empty().schema, orient="row")


def zero_score_places(frame: pl.DataFrame, originals: int) -> pl.DataFrame:
    """The rows of a table `bm25_candidates` whose originals were chosen although BM25 knows nothing of them.

    None where all `originals` (their number) are candidates: then nobody was chosen.
    """
    return frame.filter(pl.col("zero_score") & (pl.len().over("variant_id") < originals))


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
