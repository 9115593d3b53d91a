"""The asset `index_recall`: what of the truth an index finds."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import IndexSettings, Settings
from gradsim_assets.core.gradients.numerics_version import NUMERICS, NUMERICS_VERSION, SKETCHES_VERSION
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.samples import present
from gradsim_assets.core.tables.schemas import GRADIENT_INDEX, INDEX_RECALL, LIMA, PARAPHRASED
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.index.stored_index import StoredIndex
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, saved_table_result
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, MODELS
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassRequest, PassResult
    from gradsim_assets.core.models.encoded_sample import EncodedSample

_DECLARED = "core.gradients.numerics_version"


def build(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> list[dg.AssetsDefinition]:
    """The recall of the index, where the configuration asks for one."""
    return [_build(settings, settings.index, op_tags)] if settings.index else []


def _build(settings: Settings, asked: IndexSettings, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    version = code_version(
        "core.models.loading:load_model",
        "core.gradients.pass_inputs:pass_inputs",
        "core.index.gradient_index:index_frame",
        "core.index.gradient_index:sketches_of",
        "core.index.index_recall:RERANKED",
        "core.index.index_recall:exact_cosines",
        "core.index.index_recall:drawn_queries",
        "core.index.index_recall:recall_frame",
        "core.index.search:Search",
        *(f"{_DECLARED}:{name}" for name in ("NUMERICS_VERSION", "SKETCHES_VERSION")),
        config=settings.compute.model_dump_json(include={"precision"}) + str(asked.queries),
        without=NUMERICS,  # what the declared versions stand for
    )

    @dg.asset(
        key=asset_key(INDEX_RECALL.name),
        group_name=groups.INDEX,
        partitions_def=MODELS,
        deps=[
            HF_MODEL,
            LIMA.name,
            dg.AssetDep(PARAPHRASED.name, partition_mapping=ALL),
            dg.AssetDep(GRADIENT_INDEX.name, partition_mapping=BY_MODEL),
        ],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(INDEX_RECALL),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=version,
        description=(
            f"How many of the originals that are most similar in truth the index finds, for {asked.queries} paraphrases: every "
            "trace against the index shows it. COST: one exact pass over the originals."
        ),
    )
    @fails_in_one_sentence
    def index_recall(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> dg.MaterializeResult:
        return _Work(context, hub, store, compute, asked, version).result()

    return index_recall


class _Work:
    """The recall of one model's index."""

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
        self.slug = context.partition_key
        self.model_id = model_id_of(self.slug)

    def result(self) -> dg.MaterializeResult:
        """The table."""
        from gradsim_assets.core.gradients.inputs_version import samples_version
        from gradsim_assets.core.index.gradient_index import index_frame, sketches_of
        from gradsim_assets.core.index.index_recall import RERANKED, exact_cosines, recall_frame

        revision = revision_for_run(self.context, self.hub, self.model_id)
        loaded = loaded_model(self.context, self.hub, self.model_id, revision)
        index = StoredIndex.of(self.store, self.compute, self.slug, self.hub.version(self.model_id, revision))
        queries, originals, lima = self._samples(loaded)
        made = samples_version([*queries, *originals], self.version, revision.name, loaded.device)
        scratch = self.compute.places.scratch(INDEX_RECALL.name, self.slug)
        with progress(self.context, f"recall {self.slug}", "gradients") as report:
            run = self._run(loaded, report)
            exact = exact_cosines(run, queries, originals, scratch / made)
            found = self.compute.sketches(
                loaded, queries, index.dimension, None, report, self.context.log.info, self.version
            )
        unit = sketches_of(index_frame(found.ids, found.sketches))
        best = [[name for name, _ in own] for own in index.search().best(unit, max(RERANKED))]
        frame = recall_frame([one.id for one in queries], [one.id for one in originals], exact, best)
        result = saved_table_result(
            self.context,
            self.store,
            asset_key(INDEX_RECALL.name),
            frame,
            Partition(self.slug),
            metadata={"queries": len(queries), "originals": len(originals), **_shown(frame)},
            provenance={
                **provenance_of(self.hub, self.model_id, revision),
                "numerics": f"{NUMERICS_VERSION} {SKETCHES_VERSION}",
                "dataset": fingerprint(lima),
                "index": index.digest,
            },
            tags=revision_tags(self.context),
        )
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    def _samples(self, loaded: LoadedModel) -> "tuple[list[EncodedSample], list[EncodedSample], pl.DataFrame]":
        """The queries, the originals and the table of these."""
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs
        from gradsim_assets.core.index.index_recall import QUERIES, drawn_queries

        lima = self.store.tables.read([LIMA.name])
        shards = [Partition(shard=key) for key in self.store.partition_keys["shard"]]
        paraphrased = present(self.store.tables.scan([PARAPHRASED.name], shards).collect())
        chosen = drawn_queries(paraphrased["id"].to_list(), self.asked.queries)
        inputs = pass_inputs(
            lima,
            {QUERIES: paraphrased.filter(pl.col("id").is_in(chosen))},
            lima.select(original_id="id", variant_id=pl.lit(chosen[0])),
            loaded,
            policy=self.hub.settings(self.model_id).context,
            products=(),
            projections={},
        )
        return inputs.request.variants[QUERIES], inputs.request.originals, lima

    def _run(self, loaded: LoadedModel, report: Any) -> Any:
        """Runs the pass over a part of the originals."""
        version = code_version("core.models.loading:load_model", "core.gradients.engine:run_pass")
        scratch = self.compute.places.scratch(INDEX_RECALL.name, self.slug, "pass")

        @contextmanager
        def run(number: int, request: "PassRequest") -> "Iterator[PassResult]":
            def told(done: int, total: int, what: str) -> None:
                report(done, total, f"{what}, part {number + 1}")

            with self.compute.run_pass(loaded, request, scratch, told, self.context.log.info, version) as result:
                yield result

        return run


def _shown(frame: pl.DataFrame) -> dict[str, Any]:
    """Recall by the number of originals that are looked at, as the UI shows it."""
    from gradsim_assets.core.index.index_recall import recall_by_reranked

    rows = recall_by_reranked(frame).to_dicts()
    return {f"recall_at_{row['k']}/among_{row['reranked']}": row["recall"] for row in rows}
