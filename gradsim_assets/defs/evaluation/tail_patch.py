"""The assets `tail_patch_<setting>`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import EvaluationSettings, Settings
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.evaluation.step import Step
from gradsim_assets.core.evaluation.tail_patch import (
    Top,
    chosen_variants,
    method_scores,
    pairs_of,
    random_tops,
    tail_patch,
    tail_patch_summary,
    tops,
)
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, PRECONDITIONED_PRODUCTS, SETTINGS, TAIL_PATCH
from gradsim_assets.defs.evaluation.evaluation import BY_STEP, Work, build_evaluation
from gradsim_assets.defs.gradients.pass_tables import configured
from gradsim_assets.defs.index import index_candidates
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, Partitions


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    asked, preconditioners = settings.evaluation, settings.preconditioners.methods
    numbers = asked.model_dump_json(include={"variants", "top", "draws", "optimizer", "learning_rate"})

    def evaluate(work: Work) -> tuple[pl.DataFrame, Mapping[str, Any]]:
        chosen = _chosen(work, asked, bool(preconditioners))
        with work.measuring(pairs_of(chosen)) as measure:
            frame = tail_patch(chosen, measure, Step(asked.optimizer, asked.learning_rate))
            arithmetic = measure.arithmetic
        summary = tail_patch_summary(frame)
        return frame, {
            "variants": int(summary["variants"].max() or 0),  # type: ignore[arg-type]
            "top": asked.top,
            "optimizer": asked.optimizer,
            "learning_rate": asked.learning_rate,
            "arithmetic": arithmetic,
            **{f"change/{method}": change for method, change in summary.select("method", "change").iter_rows()},
        }

    return [
        build_evaluation(
            TAIL_PATCH,
            setting,
            partitions,
            evaluate,
            op_tags=op_tags,
            deps=[
                dg.AssetDep(BM25_CANDIDATES.name, partition_mapping=ALL),
                *index_candidates.deps(settings, setting, mapping=BY_MODEL),
                *(
                    dg.AssetDep(asset_key(table.name, setting), partition_mapping=BY_MODEL)
                    for table in configured(settings, [PRECONDITIONED_PRODUCTS])
                ),
            ],
            decided_by=(
                *(chosen_variants, method_scores, tops, random_tops, tail_patch, tail_patch_summary, pairs_of),
                parameters_per_component,
                *BY_STEP,
            ),
            config=" ".join((numbers, *preconditioners)),
            description=(
                "What a method's scores are worth: the change of the variant's log-probability by one optimizer step on each of "
                "the method's top originals, beside random originals. COST: at most one gradient for each original that any "
                "method names, and one loss for each pair: seconds for the demo, by estimate minutes for a model of 1 B parameters on a GPU."
            ),
        )
        for setting in SETTINGS
    ]


def _chosen(work: Work, asked: EvaluationSettings, preconditioned: bool) -> list[Top]:
    """The originals of every method and chosen variant."""
    from gradsim_assets.core.sample_gradients.components import trainable_components

    sizes = {name: parameter.numel() for name, parameter in trainable_components(work.loaded.model)}
    pairs = PairProducts.from_frame(work.dot_products, list(sizes))
    bm25 = work.candidates()
    under = work.of_shards(PRECONDITIONED_PRODUCTS.name) if preconditioned else None
    scores = method_scores(pairs, bm25, work.variants, work.originals, parameters_per_component(sizes), under)
    variants = chosen_variants(pairs.candidates.variants, asked.variants)
    return [
        *tops(pairs, scores, variants, asked.top),
        *random_tops(variants, work.originals["id"].to_list(), asked.top, asked.draws),
    ]
