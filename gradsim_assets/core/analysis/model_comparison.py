"""`model_comparison`: every model in one table."""

from collections.abc import Mapping

import polars as pl

from gradsim_assets.core.tables import schemas


def model_comparison(retrievals: Mapping[tuple[str, str], pl.DataFrame]) -> pl.DataFrame:
    """The table `model_comparison` from the `retrieval` tables by (model id, setting), in that order.

    A recall column that a model's table does not have (it had fewer candidates) is null for it.
    """
    frames = [
        frame.with_columns(pl.lit(model).alias("model"), pl.lit(setting).alias("setting"))
        for (model, setting), frame in retrievals.items()
    ]
    if not frames:
        return schemas.MODEL_COMPARISON.empty()
    table = pl.concat(frames, how="diagonal")
    wanted = [
        name for name in table.columns if name in schemas.MODEL_COMPARISON.columns or schemas.RETRIEVAL.column(name)
    ]
    return schemas.MODEL_COMPARISON.enforce(table.select(wanted))
