"""The asset `subset_losses`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.evaluation.subsets import half
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import LIMA, MODEL_GENERATED, PARAPHRASED, SUBSET_LOSSES
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.evaluation.retrainings import MADE_BY, STOOD_FOR, RetrainingPlan, recipes
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import EVALUATION
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, SAME_MODEL, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

#: Where several models are trained at a time, so many subsets for each are trained in one go: processes take seconds to start.
_AHEAD = 4


def build(settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None) -> dg.AssetsDefinition:
    """The losses after retraining on halves of the originals."""
    plan, key = RetrainingPlan(settings), asset_key(SUBSET_LOSSES.name)

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        partitions_def=partitions.model_subsets,
        deps=[
            dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL),
            dg.AssetDep(LIMA.name),
            dg.AssetDep(PARAPHRASED.name, partition_mapping=ALL),
            dg.AssetDep(MODEL_GENERATED.name, partition_mapping=SAME_MODEL),
        ],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(SUBSET_LOSSES),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=code_version(
            half,
            "core.evaluation.subset_losses:subset_loss_frame",
            *MADE_BY,
            config=recipes(settings),
            without=STOOD_FOR,
        ),
        description=(
            "Losses of all originals and variants under the model made again from half of the originals (a seeded one for "
            "every subset), as the configuration says that it was made. COST: one training on half of the data."
        ),
    )
    @fails_in_one_sentence
    def run_subset_losses(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        from gradsim_assets.core.evaluation.subset_losses import subset_loss_frame

        keys = context.partition_key.keys_by_dimension
        model_id, subset = model_id_of(keys["model"]), keys["subset"]
        revision = revision_for_run(context, hub, model_id)
        loaded = loaded_model(context, hub, model_id, revision)
        retrainings = plan.retrainings(model_id, revision, loaded, hub, store, compute)
        ids = retrainings.training.ids
        members = half(ids, subset)
        left_out = frozenset(ids) - members
        sets = [frozenset(ids) - half(ids, one) for one in _next(plan, subset, retrainings.at_once)]
        known = retrainings.get(left_out) is not None
        with progress(context, f"retraining {context.partition_key}", "models") as report:
            found = retrainings.losses([left_out] if known else [left_out, *sets], report)
        return saved_table_result(
            context,
            store,
            key,
            subset_loss_frame(found[left_out], members, subset),
            Partition(keys["model"], subset=subset),
            metadata={"originals": len(members), "trained_before": known},
            provenance={
                **provenance_of(hub, model_id, revision),
                "training": retrainings.training.recipe.model_dump(mode="json"),
                "inputs": retrainings.folder.name,
            },
            tags=revision_tags(context),
        )

    return run_subset_losses


def _next(plan: RetrainingPlan, subset: str, at_once: int) -> list[str]:
    """The subsets that are trained on together with one, where several models are trained at a time."""
    keys = list(plan.subsets())
    place = keys.index(subset)
    return keys[place : place + _AHEAD * at_once] if at_once > 1 else [subset]
