"""Keys of the assets that are tables."""

import dagster as dg

from gradsim_assets.core.tables.table_names import PATHS, asset_name


def asset_key(*path: str) -> dg.AssetKey:
    """The key of a table's asset, from the path of its folder: `asset_key("dot_products", "paraphrased")`."""
    return dg.AssetKey(asset_name(path))


def is_table(key: dg.AssetKey) -> bool:
    """Whether an asset is a table of ours; models and reports are none."""
    return len(key.path) == 1 and key.path[0] in PATHS


def table_path(key: dg.AssetKey) -> tuple[str, ...]:
    """The path of a table's folder, from the key of its asset.

    Raises:
        KeyError: the asset is no table.
    """
    return PATHS[key.to_user_string()]
