"""The assets `greedy_selection_<setting>`."""

import dagster as dg

from gradsim_assets.core.analysis.greedy_selection import greedy_selection
from gradsim_assets.core.tables.schemas import GREEDY_SELECTION
from gradsim_assets.defs.analysis.analysis import build_analysis


def build() -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return build_analysis(
        GREEDY_SELECTION,
        greedy_selection,
        "Components added one by one, each round the one that helps most. Read where the curve flattens against the "
        "cumulated share of parameters; `held_out` is selected on one half of the ids and scored on the other.",
    )
