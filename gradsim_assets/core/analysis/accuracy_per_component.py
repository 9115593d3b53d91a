"""`accuracy_per_component`: how often each single component finds the right original."""

import polars as pl

from gradsim_assets.core.analysis.scoring import recall_columns, retrieval_columns
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas


def accuracy_per_component(pairs: PairProducts, parameters: pl.DataFrame | None = None) -> pl.DataFrame:
    """The table `accuracy_per_component`, in model order.

    `parameters` is the table `parameters_per_component`; without it the column parameters is null.
    """
    columns = retrieval_columns(pairs.ranks, recall_columns(pairs.candidates))
    frame = component_columns(pairs.components, parameters)
    return schemas.ACCURACY_PER_COMPONENT.enforce(
        frame.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in columns.items())
    )
