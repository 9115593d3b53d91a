"""`retrieval_by_group`: accuracy and reciprocal ranks of every method by a column of the originals (topic, language, source)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.retrieval import Method, chance_row
from gradsim_assets.core.analysis.scoring import retrieval_columns
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.similarity.pair_products import Candidates
from gradsim_assets.core.tables import schemas

#: Below so many variants a group is said to be small: at 9 of them, half of which are found, an interval spans 0.57.
SMALL = 10

#: What is grouped by where nobody says: columns of few values, each of which several originals have; so many columns at most.
MOST_VALUES, FEWEST_EACH, MOST_COLUMNS = 20, 3, 5

#: What is grouped by on request has at most so many groups; numbers with more values than `MOST_VALUES` are cut into quarters.
MOST_GROUPS = 100

#: Whole numbers below have all of their digits as floats.
_ALL_DIGITS = 2**53


class Grouping(NamedTuple):
    """The group of every original, by the column that decides it: {column: {id: group}}; and sentences on what was chosen."""

    groups: dict[str, dict[str, str | None]]
    notes: list[str]


def grouping(columns: pl.DataFrame, asked: Sequence[str] | None) -> Grouping:
    """What originals are grouped by: the columns of the table `sample_columns` that are asked for, or those that serve (None).

    Raises:
        InputError: a column that is asked for is not there, or has too many values to group by.
    """
    there = [name for name in columns.columns if name != "id"]
    if asked is None:
        chosen, notes = _serving(columns.select(there))
    else:
        for name in asked:
            _check(name, columns, there)
        chosen, notes = list(dict.fromkeys(asked)), []
    ids = columns["id"].to_list()
    return Grouping({name: dict(zip(ids, _labels(columns[name]), strict=True)) for name in chosen}, notes)


def _serving(columns: pl.DataFrame) -> tuple[list[str], list[str]]:
    """The columns of texts or truth values that make groups of several originals, and what is said of the choice."""
    found = [
        one.name
        for one in columns.iter_columns()
        if one.dtype in (pl.String, pl.Boolean)
        and 2 <= (values := one.drop_nulls().n_unique()) <= MOST_VALUES
        and one.drop_nulls().len() >= FEWEST_EACH * values
    ]
    chosen = found[:MOST_COLUMNS]
    if not chosen:
        return [], []
    more = f"; {', '.join(found[MOST_COLUMNS:])} would serve, too" if found[MOST_COLUMNS:] else ""
    return chosen, [f"grouped by {', '.join(chosen)} (analysis.group_by chooses others{more})"]


def _check(name: str, columns: pl.DataFrame, there: Sequence[str]) -> None:
    if name not in there:
        raise InputError(
            f"analysis.group_by names {name}, which the originals do not have beside their conversations, or which holds lists (they have "
            f"{', '.join(there) or 'nothing there'}); correct it, or leave it out."
        )
    values = columns[name].drop_nulls().n_unique()
    if values > MOST_GROUPS and not columns.schema[name].is_numeric():
        raise InputError(
            f"analysis.group_by names {name}, which has {values} values for {len(columns)} originals, and groups so small say "
            f"nothing; name a column with at most {MOST_GROUPS}."
        )


def _labels(values: pl.Series) -> list[str | None]:
    """The group of every value: the value as text, or the quarter of the numbers that it falls into."""
    if values.dtype.is_numeric() and values.drop_nulls().n_unique() > MOST_VALUES:
        return _quarters(values)
    if values.dtype == pl.Boolean:
        return [None if value is None else ("yes" if value else "no") for value in values]
    return [None if value is None else _shown(value) for value in values]


def _shown(value: Any) -> str:
    """A value as text, another one for every value: a number that is rounded would be the group of others, too."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _ALL_DIGITS else repr(value)
    return str(value)


def _quarters(values: pl.Series) -> list[str | None]:
    known = values.drop_nulls().to_numpy()
    edges = np.unique(np.quantile(known, (0.25, 0.5, 0.75)))
    place = np.searchsorted(edges, known, side="left")
    names = {
        quarter: f"{_shown(known[place == quarter].min().item())} to {_shown(known[place == quarter].max().item())}"
        for quarter in set(place)
    }
    labels = iter([names[quarter] for quarter in place])
    return [None if value is None else next(labels) for value in values]


def retrieval_by_group(
    candidates: Candidates, rows: Sequence[Method], groups: Mapping[str, Mapping[str, str | None]]
) -> pl.DataFrame:
    """The table `retrieval_by_group`; `rows` are the methods of the table `retrieval`, `groups` those of `grouping`.

    A variant is of the group of its original. Groups stand in the order of their size, those of one size by name, and what has
    no value last. Every figure of a group is what `retrieval` would say of its variants alone, but for the best component, which
    is that of all variants.
    """
    ranks = np.array([candidates.ranks(method.similarity) for method in rows]).reshape(len(rows), -1)
    frames = []
    for column, known in groups.items():
        own = [known.get(variant) for variant in candidates.variants]
        sizes = {group: own.count(group) for group in set(own)}
        for group in sorted(sizes, key=lambda one: (one is None, -sizes[one], one or "")):
            chosen = np.array([one == group for one in own], dtype=bool)
            frames.append(
                _of_group(candidates, rows, ranks, chosen).with_columns(column=pl.lit(column), group=pl.lit(group))
            )
    if not frames:
        return schemas.RETRIEVAL_BY_GROUP.empty()
    return schemas.RETRIEVAL_BY_GROUP.enforce(pl.concat(frames, how="vertical_relaxed"))


def _of_group(candidates: Candidates, rows: Sequence[Method], ranks: np.ndarray, chosen: np.ndarray) -> pl.DataFrame:
    """The figures of the chosen variants (bool [V]), a row for each method and one for chance."""
    figures = retrieval_columns(ranks[:, chosen], ())
    chance = chance_row(_among(candidates, chosen), ())
    return pl.DataFrame(
        {
            "method": [*(method.name for method in rows), "chance"],
            "variants": int(chosen.sum()),
            "small": bool(chosen.sum() < SMALL),
            **{name: np.append(values, chance.get(name, np.nan)) for name, values in figures.items()},
            "component": [*(method.component for method in rows), None],
        },
        schema_overrides={"component": pl.String},
        nan_to_null=True,
    )


def _among(candidates: Candidates, chosen: np.ndarray) -> Candidates:
    """The candidates of the chosen variants alone."""
    pairs = chosen[candidates.variant]
    place = np.cumsum(chosen) - 1
    names = tuple(name for name, is_chosen in zip(candidates.variants, chosen, strict=True) if is_chosen)
    return Candidates(names, place[candidates.variant[pairs]], candidates.originals[pairs])


def small_groups(frame: pl.DataFrame) -> list[str]:
    """A sentence for every column of the table that has small groups."""
    by_column = frame.unique(["column", "group"], maintain_order=True).group_by("column", maintain_order=True)
    counts = by_column.agg(pl.len(), small=pl.col("small").sum())
    return [
        f"{small} of {groups} groups by {column} have fewer than {SMALL} variants: their figures say little, whatever they are."
        for column, groups, small in counts.iter_rows()
        if small
    ]
