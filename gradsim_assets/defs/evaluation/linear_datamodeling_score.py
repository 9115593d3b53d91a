"""The assets `linear_datamodeling_score_<setting>`."""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.linear_datamodeling_score import linear_datamodeling_score
from gradsim_assets.core.tables.schemas import LINEAR_DATAMODELING_SCORE, SETTINGS, SUBSET_LOSSES
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.evaluation.counterfactual import SCORED_BY, Counterfactual, inputs_of, scored_with
from gradsim_assets.defs.evaluation.retrainings import STOOD_FOR
from gradsim_assets.defs.models.hf_model import revision_tags
from gradsim_assets.defs.table_results import column_schema, figure_metadata, plot_metadata, saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import EVALUATION
from gradsim_assets.orchestration.partitions import BY_MODEL, MODELS
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return [_build(setting, settings, op_tags) for setting in SETTINGS]


def _build(setting: str, settings: Settings, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    key = asset_key(LINEAR_DATAMODELING_SCORE.name, setting)

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        partitions_def=MODELS,
        deps=[*inputs_of(setting, settings), dg.AssetDep(SUBSET_LOSSES.name, partition_mapping=BY_MODEL)],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(LINEAR_DATAMODELING_SCORE),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=code_version(
            *SCORED_BY,
            linear_datamodeling_score,
            "core.evaluation.subset_losses:members_of",
            "core.evaluation.subset_losses:losses_of",
            config=f"{settings.evaluation.subsets} {scored_with(settings)}",
            without=STOOD_FOR,
        ),
        description=(
            "Whether scores predict what training does: Spearman's correlation, over models retrained on halves of the originals, "
            "between the sum of a variant's scores with the members of a half and its negative loss (Park et al. 2023). For "
            "every method, component and type of components; what is not above random says nothing of what the model learned "
            f"from whom. COST: a forward pass of every sample. Variants: {setting}."
        ),
    )
    @fails_in_one_sentence
    def run_linear_datamodeling_score(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        from gradsim_assets.core.evaluation.subset_losses import losses_of, members_of

        started = time.monotonic()
        work = Counterfactual.of(context, settings, setting, hub, store, compute)
        subsets = work.plan.subsets()
        places = [Partition(context.partition_key, subset=subset) for subset in subsets]
        losses = store.tables.scan([SUBSET_LOSSES.name], places).collect()
        _check_inputs(work, places)
        variants, originals = work.ids
        members = members_of(losses, subsets, originals)
        measured = losses_of(losses, setting, subsets, variants)
        frame = linear_datamodeling_score(work.methods, members, measured)
        whole = frame.filter(pl.col("component").is_null())
        return saved_table_result(
            context,
            store,
            key,
            frame,
            Partition(context.partition_key),
            metadata={
                **figure_metadata({f"lds/{method}": lds for method, lds in whole.select("method", "lds").iter_rows()}),
                "mean_loss": float(np.mean(measured)),
                "evaluation_seconds": time.monotonic() - started,
                **plot_metadata(plots_of(LINEAR_DATAMODELING_SCORE.name, frame, setting)),
            },
            provenance={**work.provenance, SUBSET_LOSSES.name: fingerprint(losses)},
            tags=revision_tags(context),
        )

    return run_linear_datamodeling_score


def _check_inputs(work: Counterfactual, places: list[Partition]) -> None:
    """Raises InputError where a subset was retrained in another way, or on other texts, than it would be now."""
    for place in places:
        made = work.store.tables.provenance([SUBSET_LOSSES.name], place).get("inputs")
        if made != work.retrainings.folder.name:
            raise InputError(
                f"subset_losses {place} is of another training or of other texts than those of now; "
                f"`gradsim run {work.model_id} --only evaluation` computes it again."
            )
