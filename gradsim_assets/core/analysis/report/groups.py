"""What a page tells of groups: a table for each column that the originals were grouped by, and what its samples are filtered by."""

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.retrieval_by_group import MOST_VALUES, grouping, small_groups
from gradsim_assets.core.tables import schemas

#: So many characters of a value stand on the page.
_SHOWN = 120

#: What originals without a value are called.
_NONE = "(none)"

#: The methods that a table of groups has a column for, as far as they were scored.
_METHODS = (schemas.FULL_GRADIENT, "best_component", "bm25", schemas.TEXT_OVERLAP)


def group_tables(frame: pl.DataFrame | None) -> list[dict[str, Any]]:
    """By column {name, methods, rows, notes}: a row is {group, variants, small, mrr, figures}, figures in the order of methods.

    `frame` is the table `retrieval_by_group`; every figure is a row of it.
    """
    if frame is None:
        return []
    tables = []
    for (column,), rows in frame.partition_by("column", as_dict=True, maintain_order=True).items():
        there = [method for method in _METHODS if method in rows["method"].to_list()]
        groups = rows.partition_by("group", maintain_order=True)
        by_method = [{row["method"]: row for row in group.rows(named=True)} for group in groups]
        tables.append(
            {
                "name": column,
                "methods": [wording.method_name(method) for method in there],
                "rows": [
                    {
                        "group": _NONE if (one := known[schemas.FULL_GRADIENT])["group"] is None else one["group"],
                        "variants": one["variants"],
                        "small": one["small"],
                        "mrr": one,
                        "figures": [known[method] for method in there],
                    }
                    for known in by_method
                ],
                "notes": [
                    *small_groups(rows),
                    "Every interval is that of its group alone; of many groups one lies far off by chance.",
                ],
            }
        )
    return tables


def sample_columns(frame: pl.DataFrame | None, wanted: Collection[str]) -> dict[str, Any]:
    """What the explorer knows of the wanted samples beside their texts: {"columns": {name: {id: value}}, "groups": [name, ...]}.

    `frame` is the table `sample_columns`; groups are the columns whose values one can choose from.
    """
    if frame is None or frame.width == 1:
        return {"columns": {}, "groups": []}
    here = frame.filter(pl.col("id").is_in(list(wanted)))
    few = [name for name in here.columns if name != "id" and 1 < here[name].n_unique() <= MOST_VALUES]
    labels: Mapping[str, Mapping[str, str | None]] = grouping(here, few).groups
    columns = {
        name: labels.get(name)
        or {i: None if v is None else str(v)[:_SHOWN] for i, v in here.select("id", name).iter_rows()}
        for name in here.columns
        if name != "id"
    }
    known = {name: {i: value for i, value in values.items() if value is not None} for name, values in columns.items()}
    return {"columns": known, "groups": few}
