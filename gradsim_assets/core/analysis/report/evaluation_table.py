"""What each method's scores are worth, in one table: every evaluation that was made of a setting, a row a method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.evaluation.tail_patch import tail_patch_summary


@dataclass(frozen=True)
class Column:
    """One evaluation: its heading, digits behind the point, and by method the figure with the ends of its interval."""

    heading: str
    digits: int
    figures: Mapping[str, tuple[float, float | None, float | None]]


def evaluation_columns(
    linear_datamodeling_score: pl.DataFrame | None, removal: pl.DataFrame | None, tail_patch: pl.DataFrame | None
) -> list[Column]:
    """The evaluations that there are, of whole methods; those of single components are drawn over depth."""
    found = [
        Column("LDS", 3, _figures(_whole(linear_datamodeling_score), "lds")),
        Column("loss without its top originals", 3, _figures(_rows(removal), "loss_increase")),
        Column("log-probability by a step on one", 5, _figures(_steps(tail_patch), "over_random")),
    ]
    return [column for column in found if column.figures]


def evaluation_rows(columns: list[Column]) -> list[dict[str, Any]]:
    """A row for every method that any column has, best of the first column first: `name`, and `cells` as the columns stand."""
    named = list(dict.fromkeys(method for column in columns for method in column.figures))
    ordered = sorted(named, key=lambda method: tuple(-column.figures.get(method, _LAST)[0] for column in columns))
    return [
        {"name": wording.method_name(method), "cells": [column.figures.get(method) for column in columns]}
        for method in ordered
    ]


_LAST = (float("-inf"), None, None)


def _figures(rows: Iterator[Mapping[str, Any]], name: str) -> dict[str, tuple[float, float | None, float | None]]:
    return {
        row["method"]: (row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in rows if row[name] is not None
    }


def _whole(frame: pl.DataFrame | None) -> Iterator[Mapping[str, Any]]:
    return _rows(None if frame is None else frame.filter(pl.col("component").is_null()))


def _steps(frame: pl.DataFrame | None) -> Iterator[Mapping[str, Any]]:
    return _rows(None if frame is None or frame.is_empty() else tail_patch_summary(frame))


def _rows(frame: pl.DataFrame | None) -> Iterator[Mapping[str, Any]]:
    return iter(()) if frame is None else frame.iter_rows(named=True)
