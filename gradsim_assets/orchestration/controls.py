"""Which models a table of a model is made from beside it: what sets a model beside its controls reads their tables, too, and
what sums over the checkpoints of a run those of the checkpoints before it.

Dagster knows no mapping of a model to some others, so that it is told that such a table is made from those of all models.
Here, and so in commands, backfills, schedules, checks and automation, it is made from those that it really reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import dagster as dg

from gradsim_assets.core.models.controls import trained_id, untrained_id
from gradsim_assets.core.models.trajectories import checkpoint_of
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.asset_keys import OVER_CHECKPOINTS, READS_OTHER_MODELS
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph

#: Metadata of such a table: the keys of the bases by patterns of those of the models that name them; what the names of checkpoints
#: look like by the id of their run.
BASES, RUNS = "gradsim/bases", "gradsim/runs"


def places_read(
    graph: BaseAssetGraph, key: dg.AssetKey, where: Partition, known: Iterable[str] = ()
) -> list[Partition]:
    """The places that a partition of a table is made from: its own, and for what reads other models theirs.

    `known` are the keys of the models that there are, of which a table over checkpoints reads some.
    """
    if key not in READS_OTHER_MODELS or where.model is None:
        return [where]
    if key in OVER_CHECKPOINTS:
        others = earlier_checkpoints(where.model, known, _metadata(graph, key, RUNS))
    else:
        others = control_keys(where.model, _metadata(graph, key, BASES))
    return [where, *(replace(where, model=other) for other in others)]


def _metadata(graph: BaseAssetGraph, key: dg.AssetKey, name: str) -> dict[str, str]:
    found = graph.get(key).metadata.get(name, {})
    return dict(getattr(found, "value", found))


def earlier_checkpoints(model: str, known: Iterable[str], runs: Mapping[str, str]) -> list[str]:
    """The keys, among those that are known, of the checkpoints of a checkpoint's run before it, in the order of their steps; none
    for other models."""
    own = checkpoint_of(model_id_of(model), runs)
    if own is None:
        return []
    found = ((other, key) for key in known if (other := checkpoint_of(model_id_of(key), runs)) is not None)
    return [
        key for _, key in sorted((one.step, key) for one, key in found if one.run == own.run and one.step < own.step)
    ]


def control_keys(model: str, bases: dict[str, str]) -> list[str]:
    """The partition keys of the controls that a model can have, by its own; a control with random weights has none.

    `bases` are by patterns of keys (see `core.partition_keys.keys_pattern`).
    """
    if trained_id(model) is not None:
        return []
    base = next((base for pattern, base in bases.items() if fnmatchcase(model, pattern)), None)
    return [untrained_id(model), *([base] if base else [])]
