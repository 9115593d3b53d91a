"""`index_recall`: how many of the originals that are most similar in truth are among the best by the index."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import bootstrap_interval
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.gradients.engine import PassRequest, PassResult
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.similarity.pair_products import cosine
from gradsim_assets.core.tables.schemas import INDEX_RECALL

#: How many of the most similar originals are looked for.
K = 10

#: Among how many of the best by the index.
RERANKED = (10, 20, 50, 100, 200, 500, 1000)

#: Originals that are compared in one pass: the products of each component are held that long.
PART = 2000

#: What queries stand under in a pass.
QUERIES = "queries"

#: Runs a request by the number of its part; the results are there inside the context.
Run = Callable[[int, PassRequest], AbstractContextManager[PassResult]]


def drawn_queries(ids: Sequence[str], count: int) -> list[str]:
    """So many of the variants (or all), drawn by a seed, in their order."""
    random = np.random.default_rng(stable_seed("index_recall"))
    places = np.sort(random.permutation(len(ids))[:count])
    return [ids[place] for place in places]


def exact_cosines(
    run: Run,
    queries: Sequence[EncodedSample],
    originals: Sequence[EncodedSample],
    folder: Path | None,
    part: int = PART,
) -> np.ndarray:
    """Cosines of whole gradients, float64 [queries, originals]; finished parts of the originals are kept in a folder.

    The folder must be of these samples and this model alone. NaN where a gradient has no length.
    """
    parts = [originals[start : start + part] for start in range(0, len(originals), part)]
    found = []
    for number, some in enumerate(parts):
        path = folder / f"part_{number:06d}.npy" if folder else None
        if path and path.exists():
            found.append(np.load(path))
            continue
        found.append(_of_part(run, number, queries, some))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, found[-1])
    return np.concatenate(found, axis=1)


def _of_part(run: Run, number: int, queries: Sequence[EncodedSample], originals: Sequence[EncodedSample]) -> np.ndarray:
    pairs = [(query.id, original.id) for query in queries for original in originals]
    request = PassRequest(list(originals), {QUERIES: list(queries)}, {QUERIES: pairs}, frozenset([QUERIES]))
    with run(number, request) as result:
        terms = (of[QUERIES].sum(axis=1) for of in (result.dot_products, result.variant_self, result.original_self))
        return np.asarray(cosine(*terms)).reshape(len(queries), len(originals))


def recall_frame(
    queries: Sequence[str], originals: Sequence[str], exact: np.ndarray, best: Sequence[Sequence[str]]
) -> pl.DataFrame:
    """The table `index_recall` of exact cosines [queries, originals] and each query's best originals by the index."""
    k = min(K, len(originals))
    rows = []
    for query, cosines, by_index in zip(queries, exact, best, strict=True):
        order = np.argsort(-np.nan_to_num(cosines, nan=-np.inf), kind="stable")[:k]
        truth = {originals[place] for place in order}
        for reranked in sorted({min(one, len(originals)) for one in RERANKED}):
            rows.append((query, k, reranked, len(truth.intersection(by_index[:reranked]))))
    return INDEX_RECALL.enforce(pl.DataFrame(rows, schema=INDEX_RECALL.empty().schema, orient="row"))


def recall_by_reranked(frame: pl.DataFrame) -> pl.DataFrame:
    """The mean over queries with its 95 % bootstrap interval, by `reranked`: columns reranked, k, queries, recall, low, high.

    The interval is null where all queries have the same.
    """
    rows = []
    for (reranked,), own in frame.sort("reranked").group_by("reranked", maintain_order=True):
        shares = (own["found"] / own["k"]).to_numpy()
        (low,), (high,) = bootstrap_interval(shares[None])
        rows.append((reranked, own["k"][0], own.height, float(shares.mean()), float(low), float(high)))
    columns = {"reranked": pl.Int64, "k": pl.Int64, "queries": pl.Int64}
    schema = {**columns, **dict.fromkeys(("recall", "low", "high"), pl.Float64)}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("low", "high").fill_nan(None))


def recall_sentence(frame: pl.DataFrame, rerank: int) -> str:
    """What the table says of a trace that compares so many of the best by the index exactly."""
    known = recall_by_reranked(frame).filter(pl.col("reranked") <= rerank)
    if known.is_empty():
        return "recall is not known for so few"
    row = known.row(-1, named=True)
    spread = "" if row["low"] is None else f", 95 % interval {row['low']:.3f} to {row['high']:.3f}"
    return f"recall@{row['k']} {row['recall']:.3f} among {row['reranked']} ({row['queries']} queries{spread})"
