"""The chain from a number in a table back to the model revision, the dataset and the code that made it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from dagster import AssetKey
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from gradsim_assets.core.candidates.bm25_candidates import model_candidates
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, TABLES
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint
from gradsim_assets.orchestration.partitions import dimensions_of

#: Columns that name a sample.
_IDS = ("variant_id", "id")


@dataclass(frozen=True)
class Link:
    """One file of the chain: how deep it stands, what it is, where it came from, and whether it is still what was read."""

    depth: int
    table: str
    partition: Partition
    provenance: Mapping[str, Any]
    rows: pl.DataFrame
    #: None where the table that was made from it did not record what it read.
    unchanged: bool | None


def chain(
    graph: BaseAssetGraph, tables: Tables, table: str, slug: str, sample: str, shards: Sequence[str]
) -> list[Link]:
    """The files behind the rows of a sample, the table itself first, each file once.

    Raises:
        InputError: there is no such table, it was not computed for the model, or the sample is in none of its rows.
    """
    key = AssetKey(table.split("/"))
    if not graph.has(key) or key.path[0] not in TABLES:
        known = ", ".join(sorted("/".join(k.path) for k in graph.get_all_asset_keys() if k.path[0] in TABLES))
        raise InputError(f"there is no table {table}; known tables: {known}.")
    where = _home(graph, tables, key, slug, sample, shards)
    return list(_walk(graph, tables, key, where, slug, sample, shards, 0, {}, set()))


def _walk(
    graph: BaseAssetGraph,
    tables: Tables,
    key: AssetKey,
    where: Partition,
    slug: str,
    sample: str,
    shards: Sequence[str],
    depth: int,
    child: Mapping[str, Any],
    seen: set[tuple[AssetKey, Partition]],
) -> Iterator[Link]:
    if (key, where) in seen or not tables.exists(key.path, where):
        return
    seen.add((key, where))
    provenance = tables.provenance(key.path, where)
    frame = _read(tables, key, where, child)
    recorded = child.get(key.path[-1])
    # A table over many shards records them as one; that they are the same shards is told by their own entries.
    same = fingerprint(frame) == recorded if depth and isinstance(recorded, str) and recorded else None
    yield Link(depth, "/".join(key.path), where, provenance, _rows(frame, sample), same)
    for parent in sorted(graph.get(key).parent_keys):
        if parent.path[0] in TABLES:
            place = _home(graph, tables, parent, slug, sample, shards)
            yield from _walk(graph, tables, parent, place, slug, sample, shards, depth + 1, provenance, seen)


def _home(
    graph: BaseAssetGraph, tables: Tables, key: AssetKey, slug: str, sample: str, shards: Sequence[str]
) -> Partition:
    """The partition of a table in which a sample of a model stands."""
    names = dimensions_of(graph.get(key).partitions_def)
    model = slug if "model" in names else None
    if "shard" not in names:
        return Partition(model)
    places = [Partition(model, shard) for shard in shards]
    there = [place for place in places if tables.exists(key.path, place)]
    found = [place for place in there if _rows(tables.read(key.path, place), sample).height]
    if not there or not found:
        raise InputError(
            f"sample {sample} is in no shard of {'/'.join(key.path)}{f' of {slug}' if model else ''}; "
            "correct its id, or materialise the table first."
        )
    return found[0]


def _read(tables: Tables, key: AssetKey, where: Partition, child: Mapping[str, Any]) -> pl.DataFrame:
    """A partition as the table that was made from it read it: of the candidates, those that its model asks for."""
    if key.path == [BM25_CANDIDATES.name]:
        return model_candidates(tables, [str(where.shard)], child.get("candidates"))
    return tables.read(key.path, where)


def _rows(frame: pl.DataFrame, sample: str) -> pl.DataFrame:
    column = next((name for name in _IDS if name in frame.columns), None)
    return frame if column is None else frame.filter(pl.col(column) == sample)
