"""What the report answers of methods: which is best, whether selecting beats projecting, what preconditioning changes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.scoring import bootstrap_interval
from gradsim_assets.core.evaluation.tail_patch import changes_by_method
from gradsim_assets.core.tables import schemas

_PROJECTION = "projection_"


def runner_up(rows: Sequence[Mapping[str, Any]], figure: str, digits: int = 3) -> list[str]:
    """Whether the second of some methods can be told from the first; `rows` have the figure with its interval, best first.

    The intervals are each method's own: of methods that are measured on the same variants the difference is surer than they say,
    so that those which do not overlap tell them apart, and those which overlap leave it open.
    """
    if len(rows) < 2:
        return []
    best, second = rows[:2]
    equal = [wording.method_name(row["method"]) for row in rows[1:] if row[figure] == best[figure]]
    if equal:
        return [f"{_and(equal)} {'comes' if len(equal) == 1 else 'come'} out exactly the same."]
    low, high = second[f"{figure}_low"], second[f"{figure}_high"]
    said = f"The runner-up is {wording.method_name(second['method'])} with {second[figure]:.{digits}f}"
    if low is None or best[f"{figure}_low"] is None:
        return [f"{said}; how far others might lie is not known."]
    return [f"{said} ({wording.interval(low, high, digits)}): {_apart(best, second, figure)}."]


def _apart(one: Mapping[str, Any], other: Mapping[str, Any], figure: str) -> str:
    apart = one[f"{figure}_low"] > other[f"{figure}_high"] or one[f"{figure}_high"] < other[f"{figure}_low"]
    return "the intervals do not overlap" if apart else "the intervals overlap, so this does not tell which is better"


def runner_up_of_steps(frame: pl.DataFrame, best: str, second: str) -> list[str]:
    """Whether two methods of a table `tail_patch` can be told apart: paired over variants, by a 95 % bootstrap interval."""
    methods, changes = changes_by_method(frame)
    difference = changes[methods.index(best)] - changes[methods.index(second)]
    (low,), (high,) = bootstrap_interval(difference[None])
    said = f"The runner-up is {wording.method_name(second)}, on the same variants {difference.mean():.5f} less"
    if np.isnan(low):
        return [f"{said}."]
    told = "" if low > 0 else ", which cannot be told from 0"
    return [f"{said} ({wording.interval(low, high, 5)}){told}."]


def selecting(greedy: pl.DataFrame, retrieval: pl.DataFrame) -> list[str]:
    """Whether components that were chosen on other samples find more originals than random projections of the same size.

    Of each held-out split the components that are counted are as many of the first chosen ones as have no more parameters than
    the projection has numbers. One is called better where the projection's interval excludes the mean over splits, and all
    splits lie on that side of the projection's accuracy.
    """
    held_out = greedy.filter(pl.col("value").is_not_null(), criterion="accuracy", evaluation="held_out")
    said = []
    for size, row in _projections(retrieval):
        fitting = held_out.filter(pl.col("parameter_share") <= size + 1e-12)
        splits = fitting.sort("round").group_by("split", maintain_order=True).last()["value"].to_numpy()
        if not len(splits) or row["accuracy_low"] is None:
            continue
        mean, projected = float(splits.mean()), float(row["accuracy"])
        better = mean > row["accuracy_high"] and splits.min() > projected
        worse = mean < row["accuracy_low"] and splits.max() < projected
        verdict = "selecting is better" if better else "projecting is better" if worse else "they cannot be told apart"
        said.append(
            f"With {100 * size:.3g}\u00a0% of the parameters, components that were chosen on other samples find {mean:.3f} of the "
            f"originals (mean over {len(splits)} splits, {splits.min():.3f} to {splits.max():.3f}), a random projection of that size "
            f"{projected:.3f} ({wording.interval(row['accuracy_low'], row['accuracy_high'])}): {verdict}."
        )
    return said


def selecting_under_retraining(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The same by the linear datamodelling score: the one component that other variants chose, and each projection.

    `rows` are those of the table by method.
    """
    best = rows.get("best_component")
    found = [row for name, row in rows.items() if name.startswith(_PROJECTION)]
    if best is None or not found:
        return []
    listed = "; ".join(f"{_with_ends(row)}: {_apart(best, row, 'lds')}" for row in found)
    return [f"The one component that other variants chose predicts with {_score(best)}, beside {listed}."]


def preconditioning(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each preconditioner changes of the full gradient's accuracy; `rows` are those of a table `retrieval` by method."""
    said = []
    for name in schemas.PRECONDITIONERS:
        row = rows.get(name)
        if row is None or row["difference"] is None:
            continue
        # The table has what the full gradient gets right more often.
        more, low, high = 0 - row["difference"], -row["difference_high"], -row["difference_low"]
        told = "which is more" if low > 0 else "which is less" if high < 0 else "which may be chance"
        said.append(
            f"Preconditioned ({_short(name)}), the full gradient reaches {row['accuracy']:.3f}, {more:+.3f} beside the plain one "
            f"({wording.interval(low, high)}, {wording.p_value(row['p_value'])}), {told}."
        )
    return said


def preconditioning_under_retraining(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What each preconditioner changes of the linear datamodelling score; `rows` are those of the table by method."""
    plain = rows.get(schemas.FULL_GRADIENT)
    found = [rows[name] for name in schemas.PRECONDITIONERS if name in rows]
    if plain is None or not found:
        return []
    listed = "; ".join(f"{_short(row['method'])} {_score(row)}, {_apart(row, plain, 'lds')}" for row in found)
    return [f"Beside the plain full gradient's {_score(plain)}, preconditioned ones predict with: {listed}."]


def _projections(retrieval: pl.DataFrame) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Those of a known share of the parameters, each with it."""
    for row in retrieval.rows(named=True):
        size = row["method"].removeprefix(_PROJECTION)
        if row["method"] != size and not size.endswith("d") and row["accuracy"] is not None:
            yield float(size), row


def _score(row: Mapping[str, Any]) -> str:
    return f"{row['lds']:.3f} ({wording.interval(row['lds_low'], row['lds_high'])})"


def _with_ends(row: Mapping[str, Any]) -> str:
    return f"{wording.method_name(row['method'])} {_score(row)}"


def _short(preconditioner: str) -> str:
    return wording.method_name(preconditioner).removeprefix(f"{wording.FULL_GRADIENT}, ")


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
