"""Which plots belong to which table."""

import polars as pl

from gradsim_assets.core.analysis.plots import static
from gradsim_assets.core.analysis.plots.panels import Plot
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    CONTROL_COMPARISON,
    FIRST_ORDER,
    GRADIENT_SIMILARITY,
    GREEDY_SELECTION,
    LINEAR_DATAMODELING_SCORE,
    MODEL_COMPARISON,
    PARAMETERS_PER_COMPONENT,
    REMOVAL,
    RETRIEVAL,
    SELF_SIMILARITY,
    TAIL_PATCH,
)


def plots_of(table: str, frame: pl.DataFrame, setting: str = "", retrieval: pl.DataFrame | None = None) -> list[Plot]:
    """The plots of a table, of some none; `retrieval` adds the levels of other methods to compare with."""
    drawn = {
        PARAMETERS_PER_COMPONENT.name: lambda: static.parameters(frame),
        GRADIENT_SIMILARITY.name: lambda: static.pair_matrix(frame, setting),
        ACCURACY_PER_COMPONENT.name: lambda: static.accuracy(frame, retrieval, setting),
        AGREEMENT.name: lambda: static.agreement(frame, setting),
        GREEDY_SELECTION.name: lambda: static.greedy(frame, retrieval, setting),
        SELF_SIMILARITY.name: lambda: static.single_samples(frame, setting),
        RETRIEVAL.name: lambda: static.retrieval(frame, setting),
        CONTROL_COMPARISON.name: lambda: static.controls(frame, setting),
        FIRST_ORDER.name: lambda: static.first_order(frame, setting),
        TAIL_PATCH.name: lambda: static.tail_patch(frame, setting),
        LINEAR_DATAMODELING_SCORE.name: lambda: static.linear_datamodeling_score(frame, setting),
        REMOVAL.name: lambda: static.removal(frame, setting),
        MODEL_COMPARISON.name: lambda: static.comparison(frame),
    }
    return drawn[table]() if table in drawn else []
