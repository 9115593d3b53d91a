"""The few figures of a table that one wants to see first."""

from collections.abc import Callable, Mapping

import polars as pl

from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    GREEDY_SELECTION,
    RETRIEVAL,
    SELF_SIMILARITY,
)

#: By the names that they are shown under.
Figures = dict[str, float | str | None]


def headline_figures(table: str, frame: pl.DataFrame) -> Figures:
    """The figures of a table, in the order in which they are shown; none of a table that has no such figures."""
    compute = _FIGURES.get(table)
    return {} if compute is None or frame.is_empty() else compute(frame)


def _of_components(frame: pl.DataFrame, measure: str) -> Figures:
    best = frame.sort(measure, descending=True, nulls_last=True).row(0, named=True)
    values = frame[measure].drop_nulls()
    return {
        f"{measure} of the best component": best[measure],
        "best component": best["component"],
        f"{measure} of the median component": _number(values.median()),
        f"{measure} of the worst component": _number(values.min()),
    }


def _of_selections(frame: pl.DataFrame) -> Figures:
    """By criterion: the most that any number of components reaches on the ids that they were chosen on."""
    same = frame.filter(pl.col("evaluation") == "same_ids")
    most = same.group_by("criterion").agg(pl.col("value").max()).sort("criterion")
    return {f"most {criterion} of any selection": value for criterion, value in most.iter_rows()}


def _of_self_similarity(frame: pl.DataFrame) -> Figures:
    whole = frame.unique("variant_id")
    return {
        "mean similarity with the own original (full gradient)": _number(whole["full_gradient"].mean()),
        "mean similarity with the own original (best component)": _number(whole["best_component"].mean()),
    }


def _of_methods(frame: pl.DataFrame) -> Figures:
    """Accuracies of all methods first, as one compares them, then reciprocal ranks."""
    measures = [measure for measure in ("accuracy", "mrr") if measure in frame.columns]
    return {
        f"{measure}/{method}": value
        for measure in measures
        for method, value in frame.select("method", measure).iter_rows()
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


_FIGURES: Mapping[str, Callable[[pl.DataFrame], Figures]] = {
    ACCURACY_PER_COMPONENT.name: lambda frame: _of_components(frame, "accuracy"),
    AGREEMENT.name: lambda frame: _of_components(frame, "agreement"),
    GREEDY_SELECTION.name: _of_selections,
    SELF_SIMILARITY.name: _of_self_similarity,
    RETRIEVAL.name: _of_methods,
}
