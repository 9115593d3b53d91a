"""What the report says first: whether the model knows more of its originals than what cannot know them."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.models.controls import BASE, UNTRAINED, trained_id
from gradsim_assets.core.tables import schemas

#: What the full gradient is compared with, and how sentences call it.
_OTHERS = {
    UNTRAINED: "the same model with random weights",
    BASE: "the model before its fine-tuning",
    schemas.TEXT_OVERLAP: "the overlap of the answers' texts",
}


def verdict(
    model: str, retrievals: Mapping[str, pl.DataFrame], comparisons: Mapping[str, pl.DataFrame | None]
) -> list[str]:
    """Sentences on what the full gradient's accuracy says, from the tables `retrieval` and `control_comparison` by setting.

    First comes where it is not above that of the untrained control (the paired interval of the difference holds 0 or lies
    below), then where it is, then the base and text overlap.
    """
    if (trained := trained_id(model)) is not None:
        return [
            f"This is a control: the configuration of {trained} with random weights, which knows nothing of the originals, so "
            f"that what is found here is no finding about {trained}."
        ]
    found = {setting: _differences(frame, comparisons.get(setting)) for setting, frame in retrievals.items()}
    sentences = []
    for other, name in _OTHERS.items():
        rows = {setting: differences[other] for setting, differences in found.items() if other in differences}
        failing = {setting: row for setting, row in rows.items() if not row["low"] > 0}
        above = {setting: row for setting, row in rows.items() if row["low"] > 0}
        sentences += [_not_above(setting, row, name, other) for setting, row in failing.items()]
        if above:
            listed = " and ".join(
                f"by {_shown(row)} with {wording.setting_name(s)} variants" for s, row in above.items()
            )
            sentences.append(
                f"The model's full gradient finds more own originals than {_owner(name, other)}: {listed}."
            )
    if not any(UNTRAINED in differences for differences in found.values()):
        sentences.insert(
            0,
            "Nothing shows yet that these figures come from what the model has learned: add a control with random weights by "
            f"`gradsim models add {model} --controls` and compute it by `gradsim run {model}`.",
        )
    return sentences


def _differences(retrieval: pl.DataFrame, comparison: pl.DataFrame | None) -> dict[str, dict[str, Any]]:
    """By what the full gradient is compared with: both accuracies, their difference and its interval, where there is one."""
    rows = {row["control"]: row for row in of_full_gradient(comparison)}
    overlap = retrieval.filter(method=schemas.TEXT_OVERLAP).rows(named=True)
    full = retrieval.filter(method=schemas.FULL_GRADIENT)["accuracy"].to_list()
    if overlap and full:
        row = overlap[0]
        rows[schemas.TEXT_OVERLAP] = {**row, "accuracy": full[0], "control_accuracy": row["accuracy"]}
    return {
        other: {
            "model": row["accuracy"],
            "other": row["control_accuracy"],
            "difference": row["difference"],
            "low": row["difference_low"],
            "high": row["difference_high"],
        }
        for other, row in rows.items()
        if row["difference"] is not None
    }


def _shown(row: Mapping[str, Any]) -> str:
    return (
        f"{row['difference']:+.3f} of accuracy ({row['model']:.3f} against {row['other']:.3f}, "
        f"{wording.interval(row['low'], row['high'])})"
    )


def _owner(name: str, other: str) -> str:
    return name if other == schemas.TEXT_OVERLAP else f"that of {name}"


def _not_above(setting: str, row: Mapping[str, Any], name: str, other: str) -> str:
    means = {
        UNTRAINED: "so that its figure there says nothing of what the model has learned",
        BASE: "so that nothing shows that it was learned in fine-tuning",
        schemas.TEXT_OVERLAP: f"so that comparing texts would do {'better' if row['high'] < 0 else 'as well'}",
    }[other]
    finds = "finds fewer own originals than" if row["high"] < 0 else "is not shown to find more own originals than"
    return (
        f"With {wording.setting_name(setting)} variants the full gradient {finds} "
        f"{_owner(name, other)} ({_shown(row)}), {means}."
    )


def figures_of(comparisons: Mapping[str, pl.DataFrame | None]) -> dict[str, dict[str, dict[str, Any]]]:
    """By setting and control what `summary.json` tells of it."""
    names = ("control_model", "control_accuracy", "control_mrr", "difference", "difference_low", "difference_high")
    return {
        setting: {
            row["control"]: {name.removeprefix("control_"): row[name] for name in names}
            for row in of_full_gradient(comparison)
        }
        for setting, comparison in comparisons.items()
    }
