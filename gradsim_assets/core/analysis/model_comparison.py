"""`model_comparison`: every model in one table."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.control_comparison import control_comparison, of_full_gradient
from gradsim_assets.core.models.controls import BASE, UNTRAINED
from gradsim_assets.core.models.trajectories import Checkpoint
from gradsim_assets.core.tables import schemas


def model_comparison(
    retrievals: Mapping[tuple[str, str], pl.DataFrame],
    controls: Mapping[tuple[str, str], pl.DataFrame] | None = None,
    scores: Mapping[tuple[str, str], pl.DataFrame] | None = None,
    checkpoints: Mapping[str, Checkpoint] | None = None,
) -> pl.DataFrame:
    """The table `model_comparison` from the `retrieval` tables by (model id, setting), in that order.

    A recall column that a model's table does not have (it had fewer candidates) is null for it. `controls` are the tables
    `control_comparison`, which say how the full gradient of a model differs from that of its controls; `scores` are the tables
    `linear_datamodeling_score`; `checkpoints` says which models are checkpoints of a run, by their ids.
    """
    frames = [
        frame.with_columns(
            pl.lit(model).alias("model"),
            pl.lit(setting).alias("setting"),
            *_of_run((checkpoints or {}).get(model)),
            *_of_controls((controls or {}).get((model, setting))),
        ).join(_scores((scores or {}).get((model, setting))), on="method", how="left", maintain_order="left")
        for (model, setting), frame in retrievals.items()
    ]
    if not frames:
        return schemas.MODEL_COMPARISON.empty()
    table = pl.concat(frames, how="diagonal")
    wanted = [
        name for name in table.columns if name in schemas.MODEL_COMPARISON.columns or schemas.RETRIEVAL.column(name)
    ]
    return schemas.MODEL_COMPARISON.enforce(table.select(wanted))


def paired_differences(
    similarity: pl.DataFrame | pl.LazyFrame, others: Mapping[str, pl.DataFrame | pl.LazyFrame]
) -> list[dict[str, Any]]:
    """How one component (or the full gradient) of a model differs from that of others, in the columns of `control_comparison`: on
    the variants that have the same candidates under both, those with none in common left out.

    Arguments are that component's rows of the tables `gradient_similarity`, of the others by their ids.
    """
    rows = control_comparison(similarity, others).rows(named=True)
    return [{**row, "model": row["control_model"]} for row in rows if row["variants"]]


def _of_run(checkpoint: Checkpoint | None) -> list[pl.Expr]:
    """The columns that say of which run a model is a checkpoint, and of which step."""
    run, step = (checkpoint.run, checkpoint.step) if checkpoint else (None, None)
    return [pl.lit(run, pl.String).alias("run"), pl.lit(step, pl.Int64).alias("step")]


def _scores(linear_datamodeling_score: pl.DataFrame | None) -> pl.DataFrame:
    """The scores of whole methods; single components have no row in a comparison."""
    frame = (
        schemas.LINEAR_DATAMODELING_SCORE.empty() if linear_datamodeling_score is None else linear_datamodeling_score
    )
    whole = pl.col("component").is_null()
    return frame.filter(whole).select("method", "lds", "lds_low", "lds_high")


def _of_controls(comparison: pl.DataFrame | None) -> list[pl.Expr]:
    """The columns of the controls, in the row of the full gradient."""
    found = {row["control"]: row for row in of_full_gradient(comparison)}
    columns = {
        f"{kind}_{name.removeprefix('control_')}": found.get(kind, {}).get(name)
        for kind in (UNTRAINED, BASE)
        for name in ("control_accuracy", "difference", "difference_low", "difference_high")
    }
    full = pl.col("method") == schemas.FULL_GRADIENT
    return [pl.when(full).then(pl.lit(value, pl.Float64)).alias(name) for name, value in columns.items()]
