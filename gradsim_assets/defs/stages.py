"""Jobs: the stages of an experiment, each over the partitions that its assets share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from gradsim_assets.core.tables.schemas import (
    GRADIENT_INDEX,
    INDEX_CANDIDATES,
    MODEL_COMPARISON,
    MODEL_GENERATED,
    SETTINGS,
)
from gradsim_assets.core.tables.schemas import INDEX_RECALL as RECALL
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import BY_RETRAINING, BY_STEPS, BY_TOKENS, asset_key
from gradsim_assets.orchestration.dagster_internals import UnresolvedAssetJobDefinition


@dataclass(frozen=True)
class Stage:
    """A set of assets that share their partitions, with the job that materialises them."""

    job: str
    selection: dg.AssetSelection
    description: str


ORIGINALS = Stage("originals", dg.AssetSelection.assets("lima", "sample_columns"), "The originals.")
VARIANTS = Stage(
    "variants",
    dg.AssetSelection.assets("paraphrased", "bm25_candidates"),
    "Paraphrases and candidates of a shard; the same for every model.",
)
CURVATURE = Stage(
    "curvature",
    dg.AssetSelection.groups(groups.CURVATURE).materializable(),
    "What preconditioners of a model are made of, over all its originals; none where preconditioners.methods is empty.",
)
GRADIENTS = Stage(
    "gradients",
    dg.AssetSelection.assets(asset_key(MODEL_GENERATED.name))
    | dg.AssetSelection.groups(groups.GRADIENTS)
    # Not every configuration has candidates by an index.
    | dg.AssetSelection.from_string(" or ".join(f"key:{INDEX_CANDIDATES.name}_{setting}" for setting in SETTINGS)),
    "Answers and gradient tables of a model and shard, with the candidates that its index gives where it gives any: the part that "
    "needs a GPU for models of real size.",
)
INDEX = Stage(
    "index",
    dg.AssetSelection.from_string(f"key:{GRADIENT_INDEX.name}"),  # not every configuration has one
    "Sketches of the gradients of all originals, slice by slice, in which traces look; none without [index] in gradsim.toml. "
    "COST: one pass over the originals.",
)
INDEX_RECALL = Stage(
    "index_recall",
    dg.AssetSelection.from_string(f"key:{RECALL.name}"),
    "What of the truth the index finds, for a sample of paraphrases. COST: one exact pass over the originals.",
)
EVALUATION = Stage(
    "evaluation",
    dg.AssetSelection.assets(*BY_STEPS),
    "What the scores of a model mean, by single optimizer steps on it; needs what the gradients need. Made on request. "
    "COST: a few hundred gradients and losses a setting with the numbers of evaluation as they come, whatever the data: seconds "
    "for the demo, by estimate minutes for a model of 1 B parameters on a GPU.",
)
RETRAINING = Stage(
    "retraining",
    dg.AssetSelection.assets(*BY_RETRAINING),
    "The model made again from halves of its originals, one partition each, where the configuration says how it was made. Made on "
    "request. COST: one training on half of the data a partition: seconds for the demo, as much of a GPU as half the fine-tuning "
    "took for others.",
)
COUNTERFACTUALS = Stage(
    "counterfactuals",
    # By the group, in which not every configuration has preconditioned products.
    dg.AssetSelection.groups(groups.EVALUATION) - dg.AssetSelection.assets(*BY_STEPS, *BY_RETRAINING),
    "Whether scores predict what retraining does, and what a variant loses without a method's top originals. Made on request. "
    "COST: a gradient of every sample, and a training on nearly all of the data for every set of originals that is removed.",
)
TOKENS = Stage(
    "tokens",
    dg.AssetSelection.assets(*BY_TOKENS),
    "What every token makes up of the products with the own original and with the best wrong one; the report colours texts by it. "
    "Made on request. COST: a gradient of every variant and original once more, about what a setting's gradient tables cost.",
)
ANALYSES = Stage(
    "analyses",
    dg.AssetSelection.groups(groups.SIMILARITY, groups.ANALYSIS) - dg.AssetSelection.assets(MODEL_COMPARISON.name),
    "Similarities, analyses and the report of a model, from its gradient tables; no GPU.",
)
COMPARISON = Stage("comparison", dg.AssetSelection.assets(MODEL_COMPARISON.name), "All models in one table.")

#: In the order in which they need one another.
STAGES = (
    *(ORIGINALS, VARIANTS, CURVATURE, INDEX, GRADIENTS, INDEX_RECALL),
    *(EVALUATION, RETRAINING, COUNTERFACTUALS, TOKENS),
    *(ANALYSES, COMPARISON),
)

#: Those whose steps are worth processes (on Kubernetes: pods) of their own.
HEAVY_STAGES = (CURVATURE, GRADIENTS, INDEX, INDEX_RECALL, EVALUATION, RETRAINING, COUNTERFACTUALS, TOKENS)


def build(
    light: Mapping[str, Any] | None = None, without: Collection[Stage] = ()
) -> list[UnresolvedAssetJobDefinition]:
    """One job per stage, `without` those of which a configuration has no table; `light` are the tags of a run pod that works
    through the analyses itself.
    """
    return [
        dg.define_asset_job(
            stage.job,
            selection=stage.selection,
            description=stage.description,
            # Steps of seconds: on Kubernetes they share the run pod, and only heavy ones get pods of their own.
            tags=dict(light or {}) if stage is ANALYSES else None,
            executor_def=None if stage in HEAVY_STAGES else dg.in_process_executor,
        )
        for stage in STAGES
        if not any(stage is one for one in without)
    ]
