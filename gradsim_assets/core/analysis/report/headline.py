"""The figures that a person asks for first: how many were found, how many by what cannot know them, what the scores are worth."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.models.controls import BASE, UNTRAINED
from gradsim_assets.core.tables import schemas

#: What the full gradient stands beside, and how it is called in a line of figures.
BESIDE = {
    UNTRAINED: "untrained control",
    BASE: "base",
    schemas.TEXT_OVERLAP: "text overlap",
    "bm25": "BM25",
}


def headlines(
    retrievals: Mapping[str, pl.DataFrame],
    controls: Mapping[str, pl.DataFrame | None],
    scores: Mapping[str, pl.DataFrame | None],
) -> dict[str, dict[str, Any] | None]:
    """The headlines of all settings that there are `retrieval` tables of; arguments as `headline` has them, by setting."""
    return {name: headline(frame, controls.get(name), scores.get(name)) for name, frame in retrievals.items()}


def headline(
    retrieval: pl.DataFrame,
    controls: pl.DataFrame | None = None,
    linear_datamodeling_score: pl.DataFrame | None = None,
) -> dict[str, Any] | None:
    """The headline of one setting; None where no variant could be scored.

    Args:
        retrieval: the table `retrieval`, which has the full gradient, BM25 and text overlap.
        controls: the table `control_comparison`, on the variants that both models have the same candidates of.
        linear_datamodeling_score: the table of that name, if the model was made again from halves of its originals.

    Returns:
        `full_gradient` and what it stands `beside` (by the names of `BESIDE`, as far as known), each with the number of
        `variants`, how many were `found`, `accuracy` with the ends of its 95 % interval, and for `lds` by method the score
        with its ends.
    """
    rows = {row["method"]: row for row in retrieval.rows(named=True) if row["accuracy"] is not None}
    if schemas.FULL_GRADIENT not in rows:
        return None
    of_controls = {row["control"]: _share(row, "control_accuracy") for row in of_full_gradient(controls)}
    of_methods = {name: _share(rows[name], "accuracy") for name in (schemas.TEXT_OVERLAP, "bm25") if name in rows}
    beside = of_controls | of_methods
    return {
        "full_gradient": _share(rows[schemas.FULL_GRADIENT], "accuracy"),
        "beside": {name: beside[name] for name in BESIDE if name in beside},
        "lds": _scores(linear_datamodeling_score),
    }


def _share(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "variants": row["variants"],
        "found": round(row[name] * row["variants"]),
        "accuracy": row[name],
        "low": row[f"{name}_low"],
        "high": row[f"{name}_high"],
    }


def _scores(frame: pl.DataFrame | None) -> dict[str, dict[str, float]]:
    """Of the full gradient and of BM25: the two that are named before anybody has looked which comes out best."""
    if frame is None:
        return {}
    whole = frame.filter(pl.col("component").is_null(), pl.col("lds").is_not_null())
    rows = {row["method"]: row for row in whole.rows(named=True)}
    return {
        method: {"lds": rows[method]["lds"], "low": rows[method]["lds_low"], "high": rows[method]["lds_high"]}
        for method in (schemas.FULL_GRADIENT, "bm25")
        if method in rows
    }


def headline_sentence(found: Mapping[str, Mapping[str, Any] | None]) -> str:
    """One sentence on all settings, from their headlines by setting."""
    told = [_told(setting, one) for setting, one in found.items() if one is not None]
    return f"{'. '.join(told)}." if told else "No variant could be scored."


def _told(setting: str, one: Mapping[str, Any]) -> str:
    full = one["full_gradient"]
    parts = [
        f"{full['found']} of {full['variants']} {wording.setting_name(setting)} variants found",
        *(f"{BESIDE[name]} {_count(figures, full['variants'])}" for name, figures in one["beside"].items()),
    ]
    if schemas.FULL_GRADIENT in one["lds"]:
        against = f" against {one['lds']['bm25']['lds']:.2f} of BM25" if "bm25" in one["lds"] else ""
        parts.append(f"LDS {one['lds'][schemas.FULL_GRADIENT]['lds']:.2f}{against}")
    return "; ".join(parts)


def _count(figures: Mapping[str, Any], variants: int) -> str:
    """How many were found; of how many, where those are others than the model's own."""
    return f"{figures['found']}" + (f" of {figures['variants']}" if figures["variants"] != variants else "")
