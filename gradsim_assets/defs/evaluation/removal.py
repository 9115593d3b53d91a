"""The assets `removal_<setting>`."""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.evaluation.removal import removal, removals, removed_variants
from gradsim_assets.core.tables.schemas import REMOVAL, SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.evaluation.counterfactual import SCORED_BY, Counterfactual, inputs_of, scored_with
from gradsim_assets.defs.evaluation.retrainings import STOOD_FOR, recipes
from gradsim_assets.defs.models.hf_model import revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, figure_metadata, plot_metadata, saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import EVALUATION
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    return [_build(setting, settings, op_tags) for setting in SETTINGS]


def _build(setting: str, settings: Settings, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    key, asked = asset_key(REMOVAL.name, setting), settings.evaluation
    numbers = asked.model_dump_json(include={"removal_variants", "removal_draws"})

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        partitions_def=MODELS,
        deps=inputs_of(setting, settings),
        kinds={"pytorch", "parquet"},
        metadata=column_schema(REMOVAL),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=code_version(
            *(*SCORED_BY, removals, removed_variants, removal),
            config=f"{recipes(settings)} {scored_with(settings)} {numbers}",
            without=STOOD_FOR,
        ),
        description=(
            "What a variant loses when the model is made again without the top 1 % of the originals by a method (at least one), "
            "against as many random ones. COST: one training on nearly all of the data for every set of originals that any "
            f"method puts on top of a variant; equal sets are trained on once, for both settings. Variants: {setting}."
        ),
    )
    @fails_in_one_sentence
    def run_removal(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        started = time.monotonic()
        work = Counterfactual.of(context, settings, setting, hub, store, compute)
        variants, originals = work.ids
        chosen = removed_variants(variants, asked.removal_variants)
        planned = removals(work.methods, variants, originals, chosen, asked.removal_draws)
        left = sum(work.retrainings.get(one) is None for one in planned.sets)
        with progress(context, f"removal {setting} {context.partition_key}", "models") as report:
            losses = work.retrainings.losses(planned.sets, report)
        frame = removal(planned, losses, setting)
        increases = frame.select("method", "loss_increase").iter_rows()
        return saved_table_result(
            context,
            store,
            key,
            frame,
            Partition(context.partition_key),
            metadata={
                **figure_metadata({f"loss_increase/{method}": increase for method, increase in increases}),
                "retrainings": len(planned.sets),
                "trained_now": left,
                "evaluation_seconds": time.monotonic() - started,
                **plot_metadata(plots_of(REMOVAL.name, frame, setting)),
            },
            provenance=work.provenance,
            tags=revision_tags(context),
        )

    return run_removal
