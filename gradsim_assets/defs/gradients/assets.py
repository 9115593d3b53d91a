"""The gradient tables: both settings and the projections out of one pass over the distinct samples."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl

from gradsim_assets.core.tokenization import EncodedSample, Encoding, encode_samples
from gradsim_assets.defs.common import code_version, column_schema, input_errors, progress, table_result
from gradsim_assets.defs.datasets.assets import samples_of
from gradsim_assets.defs.models.assets import HF_MODEL, revision_for_run
from gradsim_assets.io.parquet import TableStore
from gradsim_assets.io.tables import Partition, Tables, fingerprint
from gradsim_assets.partitions import ALL, BY_MODEL, BY_SHARD, Partitions, model_id_of
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.hub import LoadedModel, ModelHub
from gradsim_assets.schemas import DOT_PRODUCTS, PROJECTED_SIMILARITY, SETTINGS
from gradsim_assets.settings import Settings

if TYPE_CHECKING:
    from gradsim_assets.core.engine import PassResult

_DESCRIPTIONS = {
    DOT_PRODUCTS.name: (
        "Exact products of loss gradients, per pair and component, with the squared norms of both sides. Every cosine "
        "of a component, of a set of components and of the full gradient follows from this table without a GPU."
    ),
    PROJECTED_SIMILARITY.name: (
        "Cosine of randomly projected full gradients, one row per pair and size of projection: what one gives up by "
        "storing a sketch of each gradient in place of comparing whole gradients."
    ),
}


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The gradient tables for one configuration."""
    specs = [
        _spec(schema, setting, settings) for schema in (DOT_PRODUCTS, PROJECTED_SIMILARITY) for setting in SETTINGS
    ]

    @dg.multi_asset(
        name="gradients", specs=specs, partitions_def=partitions.model_shards, can_subset=True, pool="gpu"
    )
    def gradients(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> Iterator[dg.MaterializeResult]:
        selected = [key for key in (spec.key for spec in specs) if key in context.selected_asset_keys]
        keys = context.partition_key.keys_by_dimension
        with input_errors(), progress(context, f"gradients {context.partition_key}", "samples") as report:
            model_id = model_id_of(keys["model"])
            revision = revision_for_run(context, hub, model_id)
            shard = ShardInputs(store.tables, Partition(keys["model"], keys["shard"]), selected)
            loaded = hub.load(model_id, revision, context.log.info)
            encoded = shard.encode(loaded, hub.settings(model_id).context)
            result = compute.run_pass(loaded, encoded.request(selected, compute.projections), context, report)
        provenance = {"model": model_id, "revision": revision.name, **shard.fingerprints}
        metadata = {**encoded.counts, **compute.metadata(result)}
        for key in selected:
            table, setting = key.path
            schema = DOT_PRODUCTS if table == DOT_PRODUCTS.name else PROJECTED_SIMILARITY
            frame = (product_frame if schema is DOT_PRODUCTS else projection_frame)(
                result, setting, encoded.pairs[setting], encoded.variants[setting]
            )
            yield table_result(schema, frame, key=key, metadata=metadata, provenance=provenance)

    return [gradients]
