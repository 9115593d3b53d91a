"""The asset `parameters_per_component`."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.models.hf_model import HF_MODEL, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.table_results import column_schema, plot_metadata, table_result
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.model_hub import ModelHub


def build(op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    @dg.asset(
        name=PARAMETERS_PER_COMPONENT.name,
        group_name=ANALYSIS,
        partitions_def=MODELS,
        deps=[HF_MODEL],
        kinds=TABLE_KINDS,
        metadata=column_schema(PARAMETERS_PER_COMPONENT),
        op_tags=op_tags,
        retry_policy=RETRIES,  # it asks the hub
        code_version=code_version(
            parameters_per_component,
            "core.sample_gradients.components:trainable_components",
            "core.models.loading:load_skeleton",
        ),
        description="How the model's parameters are spread over its components; read off its shapes, without weights.",
    )
    @fails_in_one_sentence
    def parameters_per_component_(
        context: dg.AssetExecutionContext, hub: ModelHub
    ) -> dg.MaterializeResult[pl.DataFrame]:
        from gradsim_assets.core.sample_gradients.components import trainable_components

        model_id = model_id_of(context.partition_key)
        revision = revision_for_run(context, hub, model_id)
        components = trainable_components(hub.skeleton(model_id, revision))
        frame = parameters_per_component({name: parameter.numel() for name, parameter in components})
        return table_result(
            PARAMETERS_PER_COMPONENT,
            frame,
            metadata={
                "parameters": int(frame["parameters"].sum()),
                "components": frame.height,
                **plot_metadata(plots_of(PARAMETERS_PER_COMPONENT.name, frame)),
            },
            provenance=provenance_of(hub, model_id, revision),
            tags=revision_tags(context),
        )

    return parameters_per_component_
