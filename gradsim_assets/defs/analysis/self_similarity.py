"""The assets `self_similarity_<setting>`."""

import dagster as dg

from gradsim_assets.core.analysis.self_similarity import self_similarity
from gradsim_assets.core.tables.schemas import SELF_SIMILARITY
from gradsim_assets.defs.analysis.analysis import build_analysis


def build() -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return build_analysis(
        SELF_SIMILARITY,
        self_similarity,
        "Similarity of each variant to its own original over depth, the samples first where the best component and the "
        "full gradient diverge most: there the full gradient hides what one component sees.",
    )
