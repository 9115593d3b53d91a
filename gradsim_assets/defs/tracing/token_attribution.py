"""The assets `token_attribution_<setting>`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.tables.schemas import SETTINGS, TOKEN_ATTRIBUTION
from gradsim_assets.core.tracing.attributed_pairs import attributed_pairs, pair_frame
from gradsim_assets.defs.evaluation.evaluation import Work, build_evaluation
from gradsim_assets.orchestration.groups import TRACING
from gradsim_assets.orchestration.partitions import Partitions


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """One asset a setting."""

    def attribute(work: Work) -> tuple[pl.DataFrame, Mapping[str, Any]]:
        pairs = attributed_pairs(work.dot_products)
        request = work.request(pair_frame(pairs))
        found = work.compute.token_attribution(
            work.loaded, request, work.setting, pairs, work.scratch, work.report, work.log, work.code_version
        )
        return found.frame, {
            "pairs": found.frame.select(pl.struct("variant_id", "original_id").n_unique()).item(),
            "largest_error": found.largest_error,
            "gradients_computed": found.gradients_computed,
            "verified": found.verified,
        }

    return [
        build_evaluation(
            TOKEN_ATTRIBUTION,
            setting,
            partitions,
            attribute,
            op_tags=op_tags,
            deps=(),
            decided_by=(attributed_pairs, "core.tracing.token_attribution:TokenAttribution"),
            config=settings.compute.model_dump_json(include={"precision"}),
            description=(
                "What every token of a variant and of an original makes up of the product of their gradients, for the variant's "
                "own original and the best wrong one. The report colours the texts by it. COST: about a gradient of every "
                "variant and original once more: seconds for the demo, about as long as a setting's gradient tables for others."
            ),
            group=TRACING,
        )
        for setting in SETTINGS
    ]
