"""The assets `index_candidates_<setting>`: the originals that the model's own index finds for its variants."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.candidates.chosen_candidates import chosen_candidates
from gradsim_assets.core.gradients.numerics_version import NUMERICS, NUMERICS_VERSION, SKETCHES_VERSION
from gradsim_assets.core.index.index_candidates import choice_of, index_candidates
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.samples import present
from gradsim_assets.core.tables.schemas import (
    GRADIENT_INDEX,
    INDEX_CANDIDATES,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
    SETTINGS,
)
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.index.stored_index import StoredIndex
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result, version_of
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.index_lookups import LOOKED_UP
from gradsim_assets.orchestration.partitions import BY_MODEL, BY_SHARD, SAME_MODEL, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    import numpy as np

    from gradsim_assets.core.models.encoded_sample import EncodedSample

_DECLARED = "core.gradients.numerics_version"

_LOADING = "core.models.loading:load_model"

#: How other tables read this one. Its version says so, and not theirs, which are those of models without an index, too.
_READ_BY = (chosen_candidates, "core.gradients.pass_inputs_by_setting:pass_inputs_by_setting")


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """The candidates by the index, where the configuration asks for any."""
    return [_build(settings, partitions, op_tags)] if settings.indexed else []


def deps(settings: Settings, *chosen: str, mapping: dg.PartitionMapping | None = None) -> list[dg.AssetDep]:
    """What a table that reads the candidates of settings depends on besides BM25's."""
    keys = [asset_key(INDEX_CANDIDATES.name, setting) for setting in chosen] if settings.indexed else []
    return [dg.AssetDep(key, partition_mapping=mapping) if mapping else dg.AssetDep(key) for key in keys]


def _build(settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    version = code_version(
        _LOADING,
        "core.gradients.pass_inputs:pass_inputs",
        "core.index.gradient_index:index_frame",
        "core.index.gradient_index:sketches_of",
        index_candidates,
        choice_of,
        *_READ_BY,
        *(f"{_DECLARED}:{name}" for name in ("NUMERICS_VERSION", "SKETCHES_VERSION")),
        config=settings.compute.model_dump_json(include={"precision"})
        + f" {by_index(settings.data.candidates)} {settings.retriever_model}",
        without=NUMERICS,  # what the declared versions stand for
    )
    lookups = {LOOKED_UP: dg.MetadataValue.json(_looked_up(settings))}

    @dg.multi_asset(
        name="candidates_by_index",
        specs=[_spec(setting, version, lookups) for setting in SETTINGS],
        partitions_def=partitions.model_shards,
        can_subset=True,
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
    )
    @fails_in_one_sentence
    def candidates_by_index(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> Iterator[dg.MaterializeResult]:
        yield from _Work(context, hub, store, compute, version, settings.retriever_model).results()

    return candidates_by_index


def _looked_up(settings: Settings) -> dict[str, bool]:
    """Whether the index gives candidates of models, by what their keys look like; of all others under an empty name."""
    own = {
        key: bool(by_index(one.candidates))
        for one in settings.models
        if one.candidates is not None
        for key in settings.keys_of(one)
    }
    return {"": bool(by_index(settings.data.candidates)), **own}


def _spec(setting: str, version: str, lookups: Mapping[str, Any]) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(INDEX_CANDIDATES.name, setting),
        deps=[
            dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL),
            LIMA.name,
            dg.AssetDep(MODEL_GENERATED.name),  # nothing is read of it for paraphrases: see `waits_only`
            *([dg.AssetDep(PARAPHRASED.name, partition_mapping=BY_SHARD)] if setting == PARAPHRASED.name else []),
            dg.AssetDep(GRADIENT_INDEX.name, partition_mapping=SAME_MODEL),
        ],
        skippable=True,
        group_name=groups.INDEX,
        kinds={"pytorch", "parquet"},
        description=(
            "The originals whose gradients are most similar to a variant's by the model's own index, the own original always among "
            f"them (`forced` where the index alone would have missed it). Variants: {setting}. Empty for a model whose candidates "
            "come from BM25 alone. A hit among them is another one than among BM25's: the gradients that are compared have chosen "
            "the rivals. COST: one gradient of every variant."
        ),
        metadata={**column_schema(INDEX_CANDIDATES), **lookups},
        code_version=version,
    )


class _Work:
    """One shard of one model's candidates."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        hub: ModelHub,
        store: TableStore,
        compute: Compute,
        version: str,
        retriever_model: str | None,
    ) -> None:
        self.context, self.hub, self.store, self.compute, self.version = context, hub, store, compute, version
        keys = context.partition_key.keys_by_dimension
        self.place = Partition(keys["model"], keys["shard"])
        self.model_id = model_id_of(keys["model"])
        self.choice = hub.settings(self.model_id).candidates
        self.retriever_model = retriever_model

    def results(self) -> Iterator[dg.MaterializeResult]:
        """The tables of the settings that are asked for."""
        selected = [table_path(key)[1] for key in sorted(self.context.selected_asset_keys)]
        revision = revision_for_run(self.context, self.hub, self.model_id)
        if not by_index(self.choice):
            yield from (self._saved(setting, revision, INDEX_CANDIDATES.empty(), {}, {}) for setting in selected)
            return
        version = self.hub.version(self.model_id, revision)
        index = StoredIndex.of(self.store, self.compute, str(self.place.model), version)
        loaded = loaded_model(self.context, self.hub, self.model_id, revision)
        for setting in selected:
            yield self._of_setting(setting, revision, loaded, index)

    def _of_setting(
        self, setting: str, revision: Revision, loaded: LoadedModel, index: StoredIndex
    ) -> dg.MaterializeResult:
        lima, whole = self.store.tables.read([LIMA.name]), self._whole(setting)
        texts = present(whole)
        samples, dropped = self._encoded(setting, lima, texts, loaded)
        scratch = self.compute.places.scratch(INDEX_CANDIDATES.name, setting, *(key for _, key in self.place.levels))
        ids, unit, computed = self._sketches(samples, loaded, index.dimension, scratch)
        tokens, cut_by = self.hub.retriever_tokens(self.retriever_model)
        frame = index_candidates(ids, unit, index.parts(), by_index(self.choice), texts, lima, tokens)
        forced = int(frame["forced"].sum())
        self.context.log.info(f"{frame.height} pairs of {len(ids)} variants, {forced} own originals forced in")
        result = self._saved(
            setting,
            revision,
            frame,
            metadata={
                "variants": len(ids),
                "forced": forced,
                "gradients_computed": computed,
                **({"recall": said} if (said := index.recall_said(by_index(self.choice))) else {}),
            },
            provenance={
                "numerics": f"{NUMERICS_VERSION} {SKETCHES_VERSION}",
                # Shards that were found in indexes of other sizes are not to be mixed.
                "retriever": f"tokens={cut_by} index={index.dimension}",
                "dimension": index.dimension,
                "index": index.digest,
                "dataset": fingerprint(lima),
                setting: fingerprint(whole),
                "dropped": dropped,
            },
        )
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    def _sketches(
        self, samples: "list[EncodedSample]", loaded: LoadedModel, dimension: int, scratch: Path
    ) -> tuple[list[str], "np.ndarray", int]:
        """Ids of the variants, their sketches (fp32 [V, d], of length 1), and for how many of them a gradient was taken."""
        import numpy as np

        from gradsim_assets.core.index.gradient_index import index_frame, sketches_of

        if not samples:  # a shard whose variants are all missing
            return [], np.zeros((0, dimension), np.float32), 0
        with progress(self.context, f"candidates {self.context.partition_key}", "variants") as report:
            made = self.compute.sketches(
                loaded, samples, dimension, scratch, report, self.context.log.info, self.version
            )
        return made.ids, sketches_of(index_frame(made.ids, made.sketches)), made.gradients_computed

    def _whole(self, setting: str) -> pl.DataFrame:
        place = Partition(shard=self.place.shard) if setting == PARAPHRASED.name else self.place
        return self.store.tables.read([setting], place)

    def _encoded(
        self, setting: str, lima: pl.DataFrame, texts: pl.DataFrame, loaded: LoadedModel
    ) -> "tuple[list[EncodedSample], int]":
        """The variants, as the pass over them has them, and how many of them are dropped."""
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs

        own = texts.select(variant_id="id", original_id="id")
        policy = self.hub.settings(self.model_id).context
        inputs = pass_inputs(lima.clear(), {setting: texts}, own, loaded, policy=policy, products=(), projections={})
        return inputs.request.variants[setting], inputs.counts["dropped"]

    def _saved(
        self,
        setting: str,
        revision: Revision,
        frame: pl.DataFrame,
        metadata: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> dg.MaterializeResult:
        return saved_table_result(
            self.context,
            self.store,
            asset_key(INDEX_CANDIDATES.name, setting),
            frame,
            self.place,
            metadata={"candidates": str(self.choice), **metadata},
            provenance={
                **provenance_of(self.hub, self.model_id, revision),
                "candidates": self.choice,
                **provenance,
            },
            tags=revision_tags(self.context),
            data_version=version_of(
                fingerprint(choice_of(frame)), provenance.get("retriever"), code_version(*_READ_BY, without=NUMERICS)
            ),
        )
