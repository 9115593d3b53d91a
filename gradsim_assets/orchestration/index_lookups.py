"""Of which models candidates come from their index.

Dagster knows assets, not models: it is told that the gradient tables of all models are made from `index_candidates`. Here, and so
in commands, backfills, schedules and checks, only those of models whose candidates come from their index are.
"""

from fnmatch import fnmatchcase

import dagster as dg

from gradsim_assets.core.tables.schemas import INDEX_CANDIDATES
from gradsim_assets.orchestration.asset_keys import of_each_setting
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph

#: Metadata of these tables: whether anything is looked up, by patterns of the keys of models with candidates of their own, and
#: under an empty name for all others.
LOOKED_UP = "gradsim/looked_up"

#: The tables themselves.
OF_INDEX = frozenset(of_each_setting(INDEX_CANDIDATES))


def looks_up(graph: BaseAssetGraph, key: dg.AssetKey, model: str | None) -> bool:
    """Whether a table (one of `OF_INDEX`; others always) holds anything of a model, given by its partition key."""
    if key not in OF_INDEX or model is None:
        return True
    found = graph.get(key).metadata.get(LOOKED_UP, {})
    known = dict(getattr(found, "value", found))
    own = next((pattern for pattern in known if pattern and fnmatchcase(model, pattern)), "")
    return bool(known.get(own, True))
