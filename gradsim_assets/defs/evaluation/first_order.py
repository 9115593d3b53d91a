"""The assets `first_order_<setting>`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.evaluation.first_order import choose_pairs, first_order, fit, full_products
from gradsim_assets.core.tables.schemas import FIRST_ORDER, SETTINGS
from gradsim_assets.defs.evaluation.evaluation import BY_STEP, Work, build_evaluation
from gradsim_assets.orchestration.partitions import Partitions


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    count = settings.evaluation.pairs

    def evaluate(work: Work) -> tuple[pl.DataFrame, Mapping[str, Any]]:
        products = choose_pairs(full_products(work.dot_products), count)
        with work.measuring(products) as measure:
            frame, step = first_order(products, measure)
            arithmetic = measure.arithmetic
        fitted = fit(frame)
        return frame, {
            "pairs": fitted.pairs,
            "pearson_r": "undefined" if fitted.r is None else fitted.r,
            "slope": "undefined" if fitted.slope is None else fitted.slope,
            "learning_rate": step.learning_rate,
            "halving_error": step.halving_error,
            "arithmetic": arithmetic,
        }

    return [
        build_evaluation(
            FIRST_ORDER,
            setting,
            partitions,
            evaluate,
            op_tags=op_tags,
            deps=(),
            decided_by=(choose_pairs, full_products, first_order, fit, *BY_STEP),
            config=settings.evaluation.model_dump_json(include={"pairs"}),
            description=(
                "Whether a product of gradients is what it says: a prediction. The change of the variant's loss by one small "
                "step of plain SGD on the original, against -learning rate x product. COST: one gradient and one loss for "
                "each of evaluation.pairs, and about as many again to choose the step: seconds for the demo, by estimate a "
                "minute for a model of 1 B parameters on a GPU."
            ),
        )
        for setting in SETTINGS
    ]
