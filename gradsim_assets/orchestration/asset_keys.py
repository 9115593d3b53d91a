"""Keys of the assets that are tables."""

import dagster as dg

from gradsim_assets.core.tables.schemas import (
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    BM25_CANDIDATES,
    CONTROL_COMPARISON,
    CURVATURE,
    DOT_PRODUCTS,
    FIRST_ORDER,
    INDEX_CANDIDATES,
    LINEAR_DATAMODELING_SCORE,
    MODEL_GENERATED,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PRECONDITIONERS,
    PROJECTED_SIMILARITY,
    REMOVAL,
    SETTINGS,
    SUBSET_LOSSES,
    TAIL_PATCH,
    TOKEN_ATTRIBUTION,
    TRACIN,
)
from gradsim_assets.core.tables.table_names import PATHS, asset_name
from gradsim_assets.core.tables.table_schema import TableSchema


def asset_key(*path: str) -> dg.AssetKey:
    """The key of a table's asset, from the path of its folder: `asset_key("dot_products", "paraphrased")`."""
    return dg.AssetKey(asset_name(path))


def of_each_setting(*tables: TableSchema) -> tuple[dg.AssetKey, ...]:
    """The keys of tables that exist for both settings."""
    return tuple(asset_key(table.name, setting) for table in tables for setting in SETTINGS)


#: The evaluation by single steps on the model, by retraining, and by what follows from both.
BY_STEPS = of_each_setting(FIRST_ORDER, TAIL_PATCH)
BY_RETRAINING = (asset_key(SUBSET_LOSSES.name),)
COUNTERFACTUAL = of_each_setting(
    ALL_PAIRS, ALL_PAIRS_PROJECTED, ALL_PAIRS_PRECONDITIONED, LINEAR_DATAMODELING_SCORE, REMOVAL
)

#: What tokens make up of products.
BY_TOKENS = of_each_setting(TOKEN_ATTRIBUTION)

#: Tables that are made on request alone: they are not missing where nobody has asked for them yet, and kept up to date after.
ON_REQUEST = (*BY_STEPS, *BY_RETRAINING, *COUNTERFACTUAL, *BY_TOKENS)

#: The curvature tables.
CURVATURES = tuple(asset_key(CURVATURE.name, kind) for kind in PRECONDITIONERS)

#: Tables of a model that are made from those of its controls, or of the checkpoints before it, as well.
OVER_CHECKPOINTS = tuple(asset_key(TRACIN.name, setting) for setting in TRACIN.parts)
READS_OTHER_MODELS = (*(asset_key(CONTROL_COMPARISON.name, setting) for setting in SETTINGS), *OVER_CHECKPOINTS)


def _waiting() -> dict[dg.AssetKey, tuple[dg.AssetKey, ...]]:
    answers, candidates = asset_key(MODEL_GENERATED.name), asset_key(BM25_CANDIDATES.name)
    waits: dict[dg.AssetKey, tuple[dg.AssetKey, ...]] = {answers: (candidates,)}
    for setting in SETTINGS:
        of_answers = (answers,) if setting == PARAPHRASED.name else ()
        other_texts = tuple(asset_key(other) for other in SETTINGS if other != setting)
        waits[asset_key(INDEX_CANDIDATES.name, setting)] = of_answers
        others = (*of_answers, *(asset_key(INDEX_CANDIDATES.name, other) for other in SETTINGS if other != setting))
        for table in (DOT_PRODUCTS, PROJECTED_SIMILARITY):
            waits[asset_key(table.name, setting)] = (*others, *CURVATURES)
        waits[asset_key(PRECONDITIONED_PRODUCTS.name, setting)] = others
        for table in (ALL_PAIRS, ALL_PAIRS_PROJECTED):
            waits[asset_key(table.name, setting)] = (*other_texts, *CURVATURES)
        waits[asset_key(ALL_PAIRS_PRECONDITIONED.name, setting)] = other_texts
    return waits


#: Parents that an asset depends on for the order of runs alone (see `waits_only`).
WAITS_FOR = _waiting()


def is_table(key: dg.AssetKey) -> bool:
    """Whether an asset is a table of ours; models and reports are none."""
    return len(key.path) == 1 and key.path[0] in PATHS


def on_request(key: dg.AssetKey) -> bool:
    """Whether an asset is one of `ON_REQUEST`."""
    return key in ON_REQUEST


def waits_only(key: dg.AssetKey, parent: dg.AssetKey) -> bool:
    """Whether an asset depends on a parent for the order of runs alone: it is not made from it, and not stale because of it.

    A backfill looks at the log while its runs are at work, and asks for whatever then has all its parents. The gradient
    tables come out of one pass, so they must become ready at one time: those of paraphrases wait for the answers as those of
    the answers do, and those of both for what the index finds for either, those without preconditioners wait for the curvature, as the products of all pairs do, and the answers
    wait for the candidates as all gradients do. Otherwise a pass is made in two or three parts, each of which computes the
    gradients of the originals again.
    """
    return parent in WAITS_FOR.get(key, ())


def table_path(key: dg.AssetKey) -> tuple[str, ...]:
    """The path of a table's folder, from the key of its asset.

    Raises:
        KeyError: the asset is no table.
    """
    return PATHS[key.to_user_string()]
