"""Names of tables: the folder `dot_products/paraphrased` is the asset `dot_products_paraphrased`.

A table that exists once for each setting has a folder for each of them. Its assets have keys of one part, since Dagster's
graph shows the last part of a key alone.
"""

import difflib
from collections.abc import Mapping, Sequence

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import TABLES


def asset_name(path: Sequence[str]) -> str:
    """The one part of a table's asset key, from the path of its folder: (table,) or (table, part)."""
    return "_".join(path)


#: The path of every table's folder under the root of the tables, by the name of its asset.
PATHS: Mapping[str, tuple[str, ...]] = {
    asset_name(path): path
    for name, schema in TABLES.items()
    for path in ((name, part) if part else (name,) for part in schema.parts or ("",))
}


def path_of_table(name: str) -> tuple[str, ...]:
    """The path of a table's folder from what a user calls it: `retrieval_paraphrased` or `retrieval/paraphrased`.

    Raises:
        InputError: there is no such table.
    """
    known = {**PATHS, **{"/".join(path): path for path in PATHS.values()}}
    if name in known:
        return known[name]
    if name in TABLES:
        parts = TABLES[name].parts
        raise InputError(
            f"{name} exists once for each of {', '.join(parts)}; name one of them, such as {asset_name((name, parts[0]))}."
        )
    close = difflib.get_close_matches(name.replace("/", "_"), PATHS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known tables: {', '.join(sorted(PATHS))}."
    raise InputError(f"there is no table {name}; {hint}")
