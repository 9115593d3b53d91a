"""What is to be computed: the one answer for `gradsim run`, for backfills and for the schedules."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache

import dagster as dg

from gradsim_assets.core.partition_keys import is_slug
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.asset_keys import asset_key, on_request, waits_only
from gradsim_assets.orchestration.controls import places_read
from gradsim_assets.orchestration.dagster_internals import AssetKeyPartitionKey, BaseAssetGraph, StaleStatus
from gradsim_assets.orchestration.index_lookups import looks_up
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.partitions import place_of, registered
from gradsim_assets.orchestration.stale_status import StatusResolver, without_collecting

Target = AssetKeyPartitionKey


@without_collecting()
def targets(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,
    files: LostFiles | None = None,
    *,
    models: Collection[str] | None = None,
    shards: Collection[str] | None = None,
    subsets: Collection[str] | None = None,
    slices: Collection[str] | None = None,
    keys: Collection[dg.AssetKey] | None = None,
    missing: bool = True,
    force: bool = False,
    requested: bool = False,
) -> list[Target]:
    """Partitions that are out of date, and what follows from them, in topological order.

    A partition whose file is lost is computed again; what was made from it stays, since the same comes out as a rule, and
    what does not shows as stale then.

    Args:
        files: finds lost files; None where there are none to look at.
        models, shards, subsets, slices, keys: restrict the answer.
        missing: includes what was never computed.
        force: all of them, however they stand.
        requested: includes what is made on request alone and was never computed.
    """
    resolver = StatusResolver(instance, graph, _few(models, shards, subsets, slices), files)
    found: list[Target] = []
    known = registered(instance)
    changing: dict[dg.AssetKey, list[Partition]] = {}  # whose content may become another one
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if not node.is_materializable or (keys is not None and key not in keys):
            continue
        above = Above(graph, key, changing)
        partitions = [one for one in partitions_of(instance, graph, key) if _within(one[1], models)]
        asked = None if requested or not on_request(key) else asked_for(instance, resolver, key)
        for target, where in partitions:
            if not _within(where, None, shards, subsets, slices) or (asked is not None and where.model not in asked):
                continue
            if force or _changes(resolver, target, places_read(graph, key, where, known), above, missing):
                changing.setdefault(key, []).append(where)
                found.append(target)
            elif resolver.why_lost(key, target.partition_key):
                found.append(target)
    return found


def originals_are_current(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> bool:
    """Whether the originals were made of their source as it was observed last."""
    return not targets(instance, graph, keys=[asset_key(LIMA.name)])


class Above:
    """Of some partitions of tables, those of tables that an asset is made from, found by the places that read them.

    Two places belong together that are equal in the dimensions that both have. All partitions of a table have the same ones,
    so that one look-up answers for all of them: there are thousands.
    """

    def __init__(
        self, graph: BaseAssetGraph, key: dg.AssetKey, changing: Mapping[dg.AssetKey, Sequence[Partition]]
    ) -> None:
        read = (parent for parent in graph.get(key).parent_keys if not waits_only(key, parent))
        self._places = {parent: changing[parent] for parent in read if changing.get(parent)}
        self._keys = cache(self._keys_in)

    def table_of(self, places: Sequence[Partition]) -> dg.AssetKey | None:
        """The first table of which a partition belongs to one of the places; None where there is none."""
        levels = [dict(place.levels) for place in places]
        return next((parent for parent in self._places if any(self._holds(parent, one) for one in levels)), None)

    def _holds(self, parent: dg.AssetKey, levels: Mapping[str, str]) -> bool:
        named = dict(self._places[parent][0].levels)
        shared = tuple(name for name in levels if name in named)
        return tuple(levels[name] for name in shared) in self._keys(parent, shared)

    def _keys_in(self, parent: dg.AssetKey, dimensions: tuple[str, ...]) -> set[tuple[str, ...]]:
        """The keys that the partitions of a table have in some of its dimensions."""
        found = map(dict, (place.levels for place in self._places[parent]))
        return {tuple(levels[name] for name in dimensions) for levels in found}


def _few(models: Collection[str] | None, *others: Collection[str] | None) -> int | None:
    """How many partitions of a table a question is about, where it names them all."""
    named = next((keys for keys in others if keys is not None), None)  # no table has two of them
    return None if models is None or named is None else len(models) * len(named)


def _within(
    where: Partition,
    models: Collection[str] | None,
    shards: Collection[str] | None = None,
    subsets: Collection[str] | None = None,
    slices: Collection[str] | None = None,
) -> bool:
    asked = ((where.model, models), (where.shard, shards), (where.subset, subsets), (where.slice, slices))
    return all(keys is None or key in (None, *keys) for key, keys in asked)


def _changes(resolver: StatusResolver, target: Target, read: Sequence[Partition], above: Above, missing: bool) -> bool:
    """Whether a partition is out of date, or will be when what is computed above it is done."""
    status = resolver.get_status(target.asset_key, target.partition_key)
    if status == StaleStatus.MISSING:
        return missing
    return status == StaleStatus.STALE or above.table_of(read) is not None


def partitions_of(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey
) -> Iterable[tuple[Target, Partition]]:
    """The partitions of an asset that can be computed and hold anything, each with the place that it has."""
    definition = graph.get(key).partitions_def
    if definition is None:
        return [(AssetKeyPartitionKey(key), Partition())]
    found = [
        (AssetKeyPartitionKey(key, partition), place_of(partition, definition))
        for partition in definition.get_partition_keys(dynamic_partitions_store=instance)
    ]
    # A wrong key out of the dialog is no model, and nothing could be computed of it.
    return [
        (target, where)
        for target, where in found
        if where.model is None or (is_slug(where.model) and looks_up(graph, key, where.model))
    ]


def asked_for(instance: dg.DagsterInstance, resolver: StatusResolver, key: dg.AssetKey) -> set[str | None]:
    """The models of which an asset that is made on request was asked for before, so that all its partitions follow.

    Something of it was made, or of what is made from it: a table that another configuration has come with was asked for with
    those that it is for.
    """
    found: set[str | None] = set()
    for asked in _made_from(resolver.asset_graph, key):
        for target, where in partitions_of(instance, resolver.asset_graph, asked):
            if where.model not in found and resolver.get_status(*target) != StaleStatus.MISSING:
                found.add(where.model)
    return found


def _made_from(graph: BaseAssetGraph, key: dg.AssetKey) -> set[dg.AssetKey]:
    """An asset that is made on request, and those that are made from it on request, directly or not."""
    children = (child for child in graph.get(key).child_keys if on_request(child) and not waits_only(child, key))
    return {key}.union(*(_made_from(graph, child) for child in children))
