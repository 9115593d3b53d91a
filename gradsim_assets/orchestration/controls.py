"""Which models a table of a model is made from beside it: what sets a model beside its controls reads their tables, too.

Dagster knows no mapping of a model to some others, so that it is told that such a table is made from those of all models.
Here, and so in commands, backfills, schedules, checks and automation, it is made from those that it really reads.
"""

from dataclasses import replace

import dagster as dg

from gradsim_assets.core.models.controls import trained_id, untrained_id
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.orchestration.asset_keys import READS_CONTROLS
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph

#: Metadata of such a table: the keys of the bases by those of the models that name them.
BASES = "gradsim/bases"


def places_read(graph: BaseAssetGraph, key: dg.AssetKey, where: Partition) -> list[Partition]:
    """The places that a partition of a table is made from: its own, and for what reads controls those of its model's."""
    if key not in READS_CONTROLS or where.model is None:
        return [where]
    found = graph.get(key).metadata.get(BASES, {})
    return [
        where,
        *(replace(where, model=control) for control in control_keys(where.model, getattr(found, "value", found))),
    ]


def control_keys(model: str, bases: dict[str, str]) -> list[str]:
    """The partition keys of the controls that a model can have, by its own; a control with random weights has none."""
    if trained_id(model) is not None:
        return []
    return [untrained_id(model), *([bases[model]] if model in bases else [])]
