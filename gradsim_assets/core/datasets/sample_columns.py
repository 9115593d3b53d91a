"""`sample_columns`: what a source has of its originals besides the conversation (topic, language, source), by id."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from gradsim_assets.core.tables.schemas import SAMPLE_COLUMNS

#: What a whole number of 64 bits holds at most.
_LARGEST = 2**63 - 1


def sample_columns(
    ids: Sequence[str], others: Sequence[Mapping[str, Any]], nested: Sequence[str] = ()
) -> tuple[pl.DataFrame, list[str]]:
    """The table `sample_columns` of samples in order, and sentences on what of their other columns was kept.

    `others` holds by column what a row has besides its conversation. Texts, numbers and truth values are kept as they are, fields
    of an object as columns `object.field`; times, and values of several kinds in one column, become texts. NaN, infinity and
    absent values are null. Columns that hold lists, bytes or objects within objects are left out, like those that were not read
    for that reason, which `nested` names.
    """
    flat = [dict(_flat(row)) for row in others]
    names = list(dict.fromkeys(name for row in flat for name in row))
    series, left_out = [pl.Series("id", ids, pl.String())], list(nested)
    for name in names:
        values = [row.get(name) for row in flat]
        if name == "id" or any(isinstance(value, list | dict | bytes) for value in values):
            left_out.append(name)
        elif any(value is not None for value in values):
            series.append(_series(name, values))
    frame = SAMPLE_COLUMNS.enforce(pl.DataFrame(series))
    kept = [f"{one.name} ({one.drop_nulls().n_unique()} values)" for one in frame.iter_columns() if one.name != "id"]
    notes = [f"kept beside the samples: {', '.join(kept)}"] if kept else []
    return frame, notes + ([f"left out, as lists are: {', '.join(left_out)}"] if left_out else [])


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{field}", part) for field, part in value.items())
        else:
            yield name, value


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pl.Series(_text(name), values, pl.Boolean())
    if kinds == {int} and all(abs(value or 0) <= _LARGEST for value in values):
        return pl.Series(_text(name), values, pl.Int64())
    if kinds <= {int, float} and float in kinds:
        numbers = [None if value is None or not math.isfinite(value) else float(value) for value in values]
        return pl.Series(_text(name), numbers, pl.Float64())
    return pl.Series(_text(name), [None if value is None else _text(value) for value in values], pl.String())


def _text(value: Any) -> str:
    """A value as text; half of a character, which no file of ours can hold, as a question mark."""
    return str(value).encode("utf-8", "replace").decode()
