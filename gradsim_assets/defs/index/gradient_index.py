"""The asset `gradient_index`: sketches of the originals' gradients, slice by slice, for traces to look in."""

import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import IndexSettings, Settings
from gradsim_assets.core.gradients.numerics_version import NUMERICS, NUMERICS_VERSION, SKETCHES_VERSION
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.partition_keys import model_id_of, shard_slice
from gradsim_assets.core.tables.schemas import GRADIENT_INDEX, LIMA
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.partitions import BY_MODEL, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.index.sketching import SketchReport
    from gradsim_assets.core.models.encoded_sample import EncodedSample

_DECLARED = "core.gradients.numerics_version"


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """The index, where the configuration asks for one."""
    return [_build(settings, settings.index, partitions, op_tags)] if settings.index else []


def _build(
    settings: Settings, asked: IndexSettings, partitions: Partitions, op_tags: Mapping[str, Any] | None
) -> dg.AssetsDefinition:
    version = code_version(
        "core.models.loading:load_model",
        "core.gradients.pass_inputs:pass_inputs",
        "core.index.gradient_index:index_frame",
        shard_slice,
        *(f"{_DECLARED}:{name}" for name in ("NUMERICS_VERSION", "SKETCHES_VERSION")),
        config=settings.compute.model_dump_json(include={"precision"}) + f" {asked.dimension} {asked.slices}",
        without=NUMERICS,  # what the declared versions stand for
    )

    @dg.asset(
        key=asset_key(GRADIENT_INDEX.name),
        group_name=groups.INDEX,
        partitions_def=partitions.model_slices,
        deps=[dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL), dg.AssetDep(LIMA.name)],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(GRADIENT_INDEX),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=version,
        description=(
            f"The gradient of every original as {asked.dimension} numbers, whose products estimate those of whole gradients "
            "without bias: what traces look in before they compare the best exactly. COST: one pass over the originals."
        ),
    )
    @fails_in_one_sentence
    def gradient_index(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        return _Work(context, hub, store, compute, asked, version).result()

    return gradient_index


class _Work:
    """One slice of one model's index."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        hub: ModelHub,
        store: TableStore,
        compute: Compute,
        asked: IndexSettings,
        version: str,
    ) -> None:
        self.context, self.hub, self.store, self.compute = context, hub, store, compute
        self.asked, self.version = asked, version
        keys = context.partition_key.keys_by_dimension
        self.place = Partition(keys["model"], slice=keys["slice"])
        self.model_id = model_id_of(keys["model"])

    def result(self) -> dg.MaterializeResult:
        """The table of the slice."""
        from gradsim_assets.core.index.gradient_index import index_frame

        started = time.monotonic()
        revision = revision_for_run(self.context, self.hub, self.model_id)
        loaded = loaded_model(self.context, self.hub, self.model_id, revision)
        lima = self.store.tables.read([LIMA.name])
        originals, counts = self._originals(lima, loaded)
        scratch = self.compute.places.scratch(GRADIENT_INDEX.name, *(key for _, key in self.place.levels))
        with progress(self.context, f"index {self.context.partition_key}", "originals") as report:
            found = self.compute.sketches(
                loaded, originals, self.asked.dimension, scratch, report, self.context.log.info, self.version
            )
        frame = index_frame(found.ids, found.sketches)
        result = saved_table_result(
            self.context,
            self.store,
            asset_key(GRADIENT_INDEX.name),
            frame,
            self.place,
            metadata={
                **counts,
                **_shown(found, time.monotonic() - started),
                "bytes_per_original": frame.estimated_size() / max(1, frame.height),
            },
            provenance={
                **provenance_of(self.hub, self.model_id, revision),
                "numerics": f"{NUMERICS_VERSION} {SKETCHES_VERSION}",
                "dimension": self.asked.dimension,
                "dataset": fingerprint(lima),
                "dropped": counts["dropped"],
            },
            tags=revision_tags(self.context),
            data_version=self._data_version(originals, loaded),
        )
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    def _originals(self, lima: pl.DataFrame, loaded: LoadedModel) -> "tuple[list[EncodedSample], dict[str, int]]":
        """The originals of the slice."""
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs

        ids = shard_slice(lima["id"].to_list(), str(self.place.slice), self.asked.slices, "index.slices")
        own = pl.DataFrame({"variant_id": ids, "original_id": ids})
        policy = self.hub.settings(self.model_id).context
        inputs = pass_inputs(lima, {}, own, loaded, policy=policy, products=(), projections={})
        return inputs.request.originals, inputs.counts

    def _data_version(self, originals: "list[EncodedSample]", loaded: LoadedModel) -> str:
        from gradsim_assets.core.gradients.inputs_version import samples_version

        settings = self.hub.settings(self.model_id)
        own = (settings.dtype, *filter(None, [settings.choice, loaded.quantised]))
        stated = (self.version, loaded.revision.name, *own)
        return samples_version(originals, *stated, self.compute.libraries(False, loaded.device))


def _shown(found: "SketchReport", seconds: float) -> dict[str, Any]:
    """What the UI shows of how a slice was made."""
    return {
        "gradients_computed": found.gradients_computed,
        "blocks": found.blocks,
        "blocks_restored": found.blocks_restored,
        "index_seconds": seconds,
        "originals_per_second": found.gradients_computed / seconds,
        "verified": found.verified or "all blocks were there",
        **({} if found.error is None else {"sketch_error": found.error}),
        **({"notes": dg.MetadataValue.text("\n".join(found.notes))} if found.notes else {}),
    }
