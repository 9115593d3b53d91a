"""The headline figures, as a dict for programs and as sentences for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import series, wording
from gradsim_assets.core.analysis.report import answers
from gradsim_assets.core.analysis.report.headline import headlines
from gradsim_assets.core.analysis.report.verdict import figures_of, verdict
from gradsim_assets.core.evaluation.first_order import fit
from gradsim_assets.core.evaluation.tail_patch import tail_patch_summary
from gradsim_assets.core.tables import schemas

#: Agreement at which a few components count as standing in for the full gradient.
CLOSE = 0.95


def summary(
    model: str,
    revision: str | None,
    parameters: pl.DataFrame | None,
    retrievals: Mapping[str, pl.DataFrame],
    missing: int | None = None,
    comparisons: Mapping[str, pl.DataFrame | None] | None = None,
    scores: Mapping[str, pl.DataFrame | None] | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`; `retrievals` are the `retrieval` tables by setting, `missing` the variants in none of them,
    `comparisons` the tables `control_comparison`, `scores` those of the linear datamodelling score.

    Unknown figures are None: parameters without a config, a method that its table does not have.
    """
    return {
        "model": model,
        "revision": revision,
        "parameters": total_parameters(parameters),
        "samples": max((int(frame["variants"].max() or 0) for frame in retrievals.values()), default=0),  # type: ignore[arg-type]
        "missing": missing,
        "verdict": verdict(model, retrievals, comparisons or {}),
        "settings": {setting: _headline(frame) for setting, frame in retrievals.items()},
        "controls": figures_of(comparisons or {}),
        "headline": headlines(retrievals, comparisons or {}, scores or {}),
    }


def total_parameters(parameters: pl.DataFrame | None) -> int | None:
    """Number of parameters of the model, or None where a component's size is unknown."""
    if parameters is None or not len(parameters) or parameters["parameters"].null_count():
        return None
    return int(parameters["parameters"].sum())


def _headline(frame: pl.DataFrame) -> dict[str, Any]:
    rows = {row["method"]: row for row in frame.rows(named=True)}
    figures: dict[str, Any] = {
        method: {name: rows.get(method, {}).get(name) for name in ("accuracy", "mrr")}
        for method in (
            schemas.FULL_GRADIENT,
            *(m for m in schemas.PRECONDITIONERS if m in rows),
            "bm25",
            schemas.TEXT_OVERLAP,
            "chance",
        )
    }
    best = rows.get("best_component", {})
    figures["best_component"] = {name: best.get(name) for name in ("component", "accuracy")}
    return figures


def sentences(retrieval: pl.DataFrame, greedy: pl.DataFrame | None, parameters: pl.DataFrame | None) -> list[str]:
    """One setting's findings in words."""
    rows = {row["method"]: row for row in retrieval.rows(named=True) if row["accuracy"] is not None}
    full = rows.get(schemas.FULL_GRADIENT)
    if full is None:
        return ["No variant could be scored."]
    right = round(full["variants"] - full["wrong"])
    said = [
        f"The full gradient finds the own original of {right} of {full['variants']} variants: accuracy "
        f"{full['accuracy']:.3f}{_interval(full)}, mean reciprocal rank {full['mrr']:.3f}."
    ]
    said += _copies(full)
    if "bm25" in rows:
        said.append(f"BM25 on the prompts alone reaches {rows['bm25']['accuracy']:.3f}{_test(rows['bm25'])}.")
    if schemas.TEXT_OVERLAP in rows:
        row = rows[schemas.TEXT_OVERLAP]
        said.append(f"The overlap of the answers' texts alone reaches {row['accuracy']:.3f}{_test(row)}.")
    if "chance" in rows:
        said.append(f"Guessing among the candidates would reach {rows['chance']['accuracy']:.3f}.")
    if "best_component" in rows:
        said.append(_best(rows["best_component"], parameters))
    said += answers.preconditioning(rows)
    if projections := [row for name, row in rows.items() if name.startswith("projection_")]:
        said.append(f"Random projections of the full gradient reach: {_listed(projections)}.")
    return said + ([] if greedy is None else [*_greedy(greedy, full), *answers.selecting(greedy, retrieval)])


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies of some methods, with their tests against the full gradient."""
    return "; ".join(f"{wording.method_name(row['method'])}: {row['accuracy']:.3f}{_test(row)}" for row in rows)


def meaning(
    first_order: pl.DataFrame | None,
    tail_patch: pl.DataFrame | None,
    linear_datamodeling_score: pl.DataFrame | None = None,
    removal: pl.DataFrame | None = None,
) -> list[str]:
    """What one setting's evaluation says of the scores, for each table that there is, retraining first."""
    said = []
    if linear_datamodeling_score is not None and len(linear_datamodeling_score):
        said += _lds(linear_datamodeling_score)
    if removal is not None and len(removal):
        said += _removal(removal)
    if first_order is not None and len(first_order):
        said.append(_prediction(first_order))
    if tail_patch is not None and len(tail_patch):
        said += _tail_patch(tail_patch)
    return [*said, _NOT_RETRAINED] if said and linear_datamodeling_score is None else said


_NOT_RETRAINED = (
    "Whether scores predict what training on an original does is not known, since the model was not made again without some of "
    "them: say under [training] how it was made from the originals, and run `gradsim run MODEL --only evaluation`."
)


def _lds(frame: pl.DataFrame) -> list[str]:
    whole = frame.filter(pl.col("component").is_null())
    rows = sorted(whole.filter(pl.col("method") != "random").rows(named=True), key=lambda row: -row["lds"])
    best, rest = rows[0], rows[1:]
    others = "; ".join(f"{wording.method_name(row['method'])} {row['lds']:.3f}" for row in rest)
    random = whole.filter(method="random").rows(named=True)
    chance = f"; random scores {random[0]['lds']:.3f} ({_ends(random[0])})" if random else ""
    said = [
        f"Of {best['subsets']} models made again from halves of the originals, {wording.method_name(best['method'])} predicts best "
        f"which are good for a variant: its linear datamodelling score is {best['lds']:.3f} ({_ends(best)}) over "
        f"{best['variants']} variants; {others}{chance}.",
        *answers.runner_up(rows, "lds"),
    ]
    by_method = {row["method"]: row for row in rows}
    said += answers.preconditioning_under_retraining(by_method) + answers.selecting_under_retraining(by_method)
    single = frame.filter(method="component").sort("lds", descending=True)
    if len(single):
        top = single.row(0, named=True)
        sure = single.filter(pl.col("lds_low") > 0).height
        said.append(
            f"{sure} of {len(single)} components alone predict with an interval that excludes 0; the best of them, "
            f"{top['component']}, reaches {top['lds']:.3f} ({_ends(top)}), which the choice among many flatters."
        )
    return said


def _ends(row: Mapping[str, Any]) -> str:
    return wording.interval(row["lds_low"], row["lds_high"])


def _removal(frame: pl.DataFrame) -> list[str]:
    rows = sorted(frame.rows(named=True), key=lambda row: -row["loss_increase"])
    best = rows[0]
    sure = [row for row in rows if row["loss_increase_low"] is not None and row["loss_increase_low"] > 0]
    ends = best["loss_increase_low"], best["loss_increase_high"]
    interval = "" if ends[0] is None else f" ({wording.interval(*ends, 4)})"
    top = "original" if best["removed"] == 1 else f"{best['removed']} originals"
    return [
        f"Made again without the top {top} of {wording.method_name(best['method'])}, the model loses most on a variant: its loss "
        f"rises by {best['loss_increase']:.4f} nats per token more than without random ones{interval}, over {best['variants']} "
        f"variants; {len(sure)} of {len(rows)} methods lie above random removal with an interval that excludes 0.",
        *answers.runner_up(rows, "loss_increase", 4),
    ]


def _prediction(frame: pl.DataFrame) -> str:
    found, rate = fit(frame), float(frame["learning_rate"][0])
    if found.r is None or found.slope is None:
        return f"The changes of {found.pairs} pairs do not differ, so nothing is known of how products predict them."
    return (
        f"One small step of plain SGD on an original (learning rate {rate:.3g}) changes the loss of a variant as the product of "
        f"their gradients predicts: over {found.pairs} pairs r is {found.r:.4f}, and measured are {found.slope:.4f} times the "
        "predicted changes."
    )


def _tail_patch(frame: pl.DataFrame) -> list[str]:
    found = [row for row in tail_patch_summary(frame).rows(named=True) if row["over_random"] is not None]
    if not found or not found[0]["variants"]:
        return ["No variant could be compared with steps on random originals."]
    rows = sorted(found, key=lambda row: -row["over_random"])
    best = rows[0]
    ends = best["over_random_low"], best["over_random_high"]
    interval = "" if ends[0] is None else f" ({wording.interval(*ends, 5)})"
    sure = [row for row in rows if row["over_random_low"] is not None and row["over_random_low"] > 0]
    others = f"{len(sure)} of {len(rows)} methods lie above random originals with an interval that excludes 0"
    second = [answers.runner_up_of_steps(frame, best["method"], row["method"]) for row in rows[1:2]]
    return [
        f"One optimizer step on a top original of {wording.method_name(best['method'])} raises the log-probability of a variant "
        f"most, by {best['over_random']:.5f} nats per token more than one on a random original{interval}, over "
        f"{best['variants']} variants; {others}.",
        *(sentence for said in second for sentence in said),
    ]


def _copies(full: Mapping[str, Any]) -> list[str]:
    """What the full gradient's accuracy owes to answers that are copies; nothing where that is not known."""
    copies, others = full["variants_verbatim"], full["variants_not_verbatim"]
    if copies is None:
        return []
    if not copies:
        return ["No answer is a verbatim copy of its original's."]
    on_others = f", on the other {others} it is {_accuracy(full, 'not_verbatim')}" if others else ""
    return [
        f"{copies} of the {copies + others} answers are verbatim copies of their originals' (white space aside). On these "
        f"the full gradient's accuracy is {_accuracy(full, 'verbatim')}{on_others}."
    ]


def _accuracy(row: Mapping[str, Any], which: str) -> str:
    return f"{row[f'accuracy_{which}']:.3f}{_interval(row, f'accuracy_{which}')}"


def _interval(row: Mapping[str, Any], figure: str = "accuracy") -> str:
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    return "" if low is None else f" ({wording.interval(low, high)})"


def _test(row: Mapping[str, Any]) -> str:
    p = row["p_value"]
    if p is None:
        return ""
    return f" ({wording.p_value(p)} against the full gradient)"


def _best(row: Mapping[str, Any], parameters: pl.DataFrame | None) -> str:
    share = None
    if parameters is not None:
        share = dict(parameters.select("component", "share").iter_rows()).get(row["component"])
    size = "" if share is None else f" ({100 * share:.2g}\u00a0% of the parameters)"
    return (
        f"The best single component, {row['component']}{size}, reaches {row['accuracy']:.3f}{_interval(row)}{_test(row)}; it is "
        "chosen on the same variants: interval and test allow for the choice among all components, the figure itself flatters."
    )


def _greedy(greedy: pl.DataFrame, full: Mapping[str, Any]) -> list[str]:
    said = []
    for criterion, goal, what in (
        ("agreement", CLOSE, f"an agreement of {CLOSE} with the full gradient"),
        ("accuracy", full["accuracy"], "the full gradient's accuracy"),
    ):
        held = series.greedy_curves(greedy, None, criterion).held_out
        curve = held if len(held) else series.greedy_curves(greedy, None, criterion).same
        reached = curve.with_row_index("components", 1).filter(pl.col("value") >= goal - 1e-12)
        if not len(reached):
            continue
        count, share = int(reached["components"][0]), float(reached["x"][0])
        by_share = greedy["parameter_share"].null_count() == 0
        size = f" holding {share:.3g}\u00a0% of the parameters" if by_share else ""
        where = "on samples held out of the selection" if len(held) else "on the samples they were selected on"
        noun = "component is" if count == 1 else "components are"
        said.append(f"{count} greedily chosen {noun} enough for {what} {where}{',' if size else ''}{size}.")
    return said
