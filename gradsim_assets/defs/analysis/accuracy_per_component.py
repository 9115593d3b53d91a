"""The assets `accuracy_per_component_<setting>`."""

import dagster as dg

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.tables.schemas import ACCURACY_PER_COMPONENT
from gradsim_assets.defs.analysis.analysis import build_analysis


def build() -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return build_analysis(
        ACCURACY_PER_COMPONENT,
        accuracy_per_component,
        "How often a single component finds the right original. Read it against chance (1 / number of candidates) and "
        "against the full gradient in `retrieval`: a component above the full gradient knows more than the whole.",
    )
