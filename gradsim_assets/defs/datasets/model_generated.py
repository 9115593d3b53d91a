"""The asset `model_generated`: the model's own answers."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.lacking import lacking
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, LIMA, MODEL_GENERATED
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.orchestration.partitions import BY_MODEL, BY_SHARD, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub


def build(settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    @dg.asset(
        name=MODEL_GENERATED.name,
        group_name=DATASETS,
        partitions_def=partitions.model_shards,
        ins={"paraphrased": dg.AssetIn(partition_mapping=BY_SHARD)},
        deps=[
            dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL),
            dg.AssetDep(BM25_CANDIDATES.name, partition_mapping=BY_SHARD),  # nothing is read of it: see `waits_only`
        ],
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        metadata=column_schema(MODEL_GENERATED),
        code_version=code_version(
            "core.datasets.model_generated:model_generated",
            "core.models.loading:load_model",
            "core.tables.schemas:MODEL_GENERATED",
            config="" if settings.data.generate == "last" else f"generate={settings.data.generate}",
        ),
        description=(
            "The paraphrased prompts answered by the model under study (greedy decoding): of conversations the last user turn, or "
            'every one in turn (data.generate = "every").'
        ),
    )
    @fails_in_one_sentence
    def model_generated_(
        context: dg.AssetExecutionContext,
        paraphrased: pl.DataFrame,
        lima: pl.DataFrame,
        hub: ModelHub,
        compute: Compute,
    ) -> dg.MaterializeResult[pl.DataFrame]:
        from gradsim_assets.core.datasets.model_generated import model_generated

        keys = context.partition_key.keys_by_dimension
        with progress(context, f"answers {context.partition_key}", "samples") as report:
            model_id = model_id_of(keys["model"])
            revision = revision_for_run(context, hub, model_id)
            loaded = loaded_model(context, hub, model_id, revision)
            model = hub.settings(model_id)
            frame, counts = model_generated(
                paraphrased,
                lima,
                loaded,
                model.context,
                identity=" ".join(filter(None, [revision.name, model.dtype, loaded.quantised])),
                store=compute.places.scratch("answers", keys["model"], f"{keys['shard']}.jsonl"),
                progress=report,
                log=context.log.info,
                generate=settings.data.generate,
            )
        return table_result(
            MODEL_GENERATED,
            frame,
            metadata={**counts, "missing": lacking(paraphrased).count},
            provenance={
                **provenance_of(hub, model_id, revision),
                "paraphrased": fingerprint(paraphrased),
                LIMA.name: fingerprint(lima),
                **{name: counts[name] for name in ("dropped", "prompt_no_prefix")},
            },
            tags=revision_tags(context),
        )

    return model_generated_
