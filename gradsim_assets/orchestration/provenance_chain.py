"""The chain from a number in a table back to the model revision, the dataset and the code that made it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from dagster import AssetKey, MultiPartitionsDefinition

from gradsim_assets.core.candidates.chosen_candidates import of_bm25
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, PARAPHRASED
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint
from gradsim_assets.orchestration.asset_keys import asset_key, is_table, table_path, waits_only
from gradsim_assets.orchestration.index_lookups import looks_up
from gradsim_assets.orchestration.partitions import dimensions_of, key_of
from gradsim_assets.orchestration.stale_status import StatusResolver

#: Columns that name a sample.
_IDS = ("variant_id", "id")


@dataclass(frozen=True)
class Link:
    """One file of the chain."""

    #: How many tables lie between this one and the one that was asked for.
    depth: int
    #: Name of the table's asset.
    table: str
    partition: Partition
    #: What the file says of itself.
    provenance: Mapping[str, Any]
    #: The rows of the sample; all rows of a table that has no samples.
    rows: pl.DataFrame
    #: Whether the file still is what the table made from it has read; None where that was not recorded.
    unchanged: bool | None
    #: Why the file cannot be read although it was written once; None where it can.
    lost: str | None = None


def chain(
    resolver: StatusResolver, tables: Tables, path: Sequence[str], slug: str, sample: str, shards: Sequence[str]
) -> list[Link]:
    """The files behind the rows that a sample of a model has in the table at `path`, that table first, each file once.

    Raises:
        InputError: the table was not computed for the model, or the sample is in none of its rows.
    """
    return list(_Walk(resolver, tables, slug, sample, shards).links(asset_key(*path)))


@dataclass
class _Walk:
    """A walk up the asset graph from one sample of one model."""

    resolver: StatusResolver
    tables: Tables
    slug: str
    sample: str
    shards: Sequence[str]
    _seen: set[AssetKey] = field(default_factory=set)

    def links(self, key: AssetKey, child: Mapping[str, Any] | None = None, depth: int = 0) -> Iterator[Link]:
        """The links from a table on; `child` is the provenance of the table that was made from it."""
        if key in self._seen:
            return
        self._seen.add(key)
        path, place = table_path(key), self._place(key)
        if lost := self._why_lost(key, place):
            yield Link(depth, key.to_user_string(), place, {}, pl.DataFrame(), None, lost)
            return
        if not self.tables.exists(path, place):
            return
        provenance = self.tables.provenance(path, place)
        frame = self._read(key, place, child or {})
        yield Link(depth, key.to_user_string(), place, provenance, self._rows(frame), _unchanged(path, frame, child))
        for parent in sorted(filter(is_table, self.resolver.asset_graph.get(key).parent_keys)):
            if waits_only(key, parent) or not looks_up(self.resolver.asset_graph, parent, self.slug):
                continue
            yield from self.links(parent, provenance, depth + 1)

    def _place(self, key: AssetKey) -> Partition:
        """The partition of a table in which the sample stands, or a lost one in which it may have stood."""
        path, names = table_path(key), dimensions_of(self.resolver.asset_graph.get(key).partitions_def)
        model = self.slug if "model" in names else None
        if "subset" in names:  # each holds all samples: the first stands for them
            return Partition(model, subset="00")
        if "slice" in names:
            places = [Partition(model, slice=one) for one in self._slices(key)]
        elif "shard" in names:
            places = [Partition(model, shard) for shard in self.shards]
        else:
            return Partition(model)
        lost = [place for place in places if self._why_lost(key, place)]
        for place in places:
            if (
                place not in lost
                and self.tables.exists(path, place)
                and self._rows(self.tables.read(path, place)).height
            ):
                return place
        if lost:
            return lost[0]
        if why := self._why_missing():
            raise InputError(
                f"sample {self.sample} has no variant: its paraphrase is missing ({why}), so no table holds it."
            )
        raise InputError(
            f"sample {self.sample} is in no {places[0].levels[-1][0]} of {key.to_user_string()}{f' of {self.slug}' if model else ''}; "
            "correct its id, or compute the table first: `gradsim run MODEL`."
        )

    def _slices(self, key: AssetKey) -> Sequence[str]:
        definition = self.resolver.asset_graph.get(key).partitions_def
        assert isinstance(definition, MultiPartitionsDefinition)
        return definition.get_partitions_def_for_dimension("slice").get_partition_keys()

    def _why_lost(self, key: AssetKey, place: Partition) -> str | None:
        return self.resolver.why_lost(key, key_of(place))

    def _why_missing(self) -> str | None:
        """What the table `paraphrased` says of a missing variant; None for one that is there, or is not known at all."""
        places = [Partition(shard=shard) for shard in self.shards]
        there = [place for place in places if self.tables.exists([PARAPHRASED.name], place)]
        rows = [self._rows(self.tables.read([PARAPHRASED.name], place)) for place in there]
        return next((str(flag) for found in rows for flag in found.filter(pl.col("messages").is_null())["flag"]), None)

    def _read(self, key: AssetKey, place: Partition, child: Mapping[str, Any]) -> pl.DataFrame:
        """A partition as the table that was made from it read it: of the candidates, those that its model asks for."""
        if key == asset_key(BM25_CANDIDATES.name):
            return of_bm25(self.tables, [str(place.shard)], child.get("candidates"))
        return self.tables.read(table_path(key), place)

    def _rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        column = next((name for name in _IDS if name in frame.columns), None)
        return frame if column is None else frame.filter(pl.col(column) == self.sample)


def _unchanged(path: Sequence[str], frame: pl.DataFrame, child: Mapping[str, Any] | None) -> bool | None:
    # A table of one setting is recorded as one over all shards; that they are the same is told by their own entries.
    recorded = None if child is None or len(path) > 1 else child.get(path[0])
    return fingerprint(frame) == recorded if isinstance(recorded, str) and recorded else None
