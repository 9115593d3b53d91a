"""The assets `agreement_<setting>`."""

import dagster as dg

from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.tables.schemas import AGREEMENT
from gradsim_assets.defs.analysis.analysis import build_analysis


def build() -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return build_analysis(
        AGREEMENT,
        agreement,
        "How well a single component's similarities stand in for those of the full gradient: 1 means that its "
        "similarities are those of the full gradient up to a factor.",
    )
