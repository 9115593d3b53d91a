"""The candidates of one model's setting, whichever sources they come from."""

from collections.abc import Iterable, Sequence

import polars as pl

from gradsim_assets.core.candidates.bm25_candidates import model_candidates
from gradsim_assets.core.candidates.candidate_choice import by_bm25, by_index
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, INDEX_CANDIDATES
from gradsim_assets.core.tables.storage import Partition, Tables

_PAIR = ["variant_id", "original_id"]


def of_bm25(tables: Tables, shards: Sequence[str], choice: int | str | None) -> pl.DataFrame:
    """What a model that asks for such candidates uses of `bm25_candidates`: nothing, where all come from the index; raises as
    `model_candidates`."""
    if choice is None or not by_index(choice):
        return model_candidates(tables, shards, choice)  # type: ignore[arg-type]  # a number, or "all"
    asked = by_bm25(choice)
    return model_candidates(tables, shards, asked) if asked else BM25_CANDIDATES.empty()


def chosen_candidates(
    tables: Tables, model: str, setting: str, shards: Sequence[str], choice: int | str | None
) -> pl.DataFrame:
    """The candidates of a model (by its partition key) in one setting, with the columns of `bm25_candidates`.

    Each source gives as many as it is asked for, the own original among them, and a pair of both stands once: BM25's come first by
    their rank, then those of the index alone by theirs. `rank` and `score` are always BM25's, with ranks among all originals for
    those that the index has found, whose place says something whatever BM25 knows of them.

    Raises:
        InputError: a table is missing, or holds fewer.
    """
    first = of_bm25(tables, shards, choice)
    if not by_index(choice):
        return first
    key, parts = [INDEX_CANDIDATES.name, setting], [Partition(model, shard) for shard in shards]
    return union(first, tables.scan(key, parts).collect())


def among_an_index(choices: Iterable[int | str | None]) -> str:
    """What a reader of figures must know where an index gives candidates; nothing where none does."""
    chosen = list(dict.fromkeys(str(choice) for choice in choices if by_index(choice)))
    if not chosen:
        return ""
    beside = " beside BM25's" if any(by_bm25(choice) for choice in chosen) else ""
    return (
        f"The candidates are {' and '.join(chosen)}: the model's own index of gradients has chosen rivals{beside}, those that are most "
        "similar by estimate. A hit among them says more of the gradients than one among BM25's, and BM25's own figure is that among "
        "rivals which gradients have chosen: neither is to be set beside figures among other candidates. Other models, controls "
        "included, have other ones."
    )


def union(by_bm25: pl.DataFrame, by_index: pl.DataFrame) -> pl.DataFrame:
    """The candidates of a table `bm25_candidates` with those of a table `index_candidates` (see `chosen_candidates`)."""
    pairs = by_index.select(*_PAIR, found=pl.lit(True))
    known = by_bm25.join(pairs, on=_PAIR, how="left", maintain_order="left")
    known = known.with_columns(zero_score=pl.col("zero_score") & pl.col("found").is_null()).drop("found")
    more = by_index.join(by_bm25, on=_PAIR, how="anti", maintain_order="left").select(
        *_PAIR, rank="bm25_rank", score="bm25_score", forced=pl.lit(False), zero_score=pl.lit(False)
    )
    every = pl.concat([known.select(list(BM25_CANDIDATES.columns)), more])
    places = every.select("variant_id").unique(maintain_order=True).with_row_index("place")
    return every.join(places, on="variant_id", maintain_order="left").sort("place", maintain_order=True).drop("place")
