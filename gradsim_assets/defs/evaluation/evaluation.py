"""What tables of a model's pairs have in common: the model, the samples, and where unfinished work is kept."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.candidates.chosen_candidates import chosen_candidates
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.numerics_version import NUMERICS
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, DOT_PRODUCTS, LIMA, PARAPHRASED
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.code_version import Root, code_version
from gradsim_assets.defs.models.hf_model import HF_MODEL, check_version, loaded_model, revision_for_run, revision_tags
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, model_provenance, plot_metadata, saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import EVALUATION
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, MODELS, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.evaluation.one_step import LossChanges, Progress
    from gradsim_assets.core.gradients.engine import PassRequest

#: What every pair comes from, beside what chooses them.
_MADE_FROM: tuple[Root, ...] = ("core.models.loading:load_model", "core.gradients.pass_inputs:pass_inputs")

#: What measures a pair by a step on it.
BY_STEP: tuple[Root, ...] = ("core.evaluation.one_step:measuring",)

#: Declared versions stand for the engine's code here as they do for the gradient tables; seeds say what is drawn.
_DECLARED, _STOOD_FOR = "core.gradients.numerics_version:NUMERICS_VERSION", tuple(set(NUMERICS) - {"core.seeds"})


@dataclass(frozen=True)
class Work:
    """One evaluation of a model and setting: its texts, and how its pairs are measured."""

    setting: str
    slug: str
    #: The model's (see `ModelHub.version`).
    version: str
    shards: Sequence[str]
    dot_products: pl.LazyFrame
    variants: pl.DataFrame
    originals: pl.DataFrame
    loaded: LoadedModel
    policy: ContextPolicy
    store: TableStore
    scratch: Path
    code_version: str
    report: "Progress"
    compute: Compute
    log: Callable[[str], None]

    def of_shards(self, table: str) -> pl.DataFrame:
        """A table of the model and setting over all shards.

        Raises:
            InputError: it is not all there, or made from another revision, or other settings, than the model has now.
        """
        key, parts = [table, self.setting], [Partition(self.slug, shard) for shard in self.shards]
        found, model_id = self.store.optional(key, parts), model_id_of(self.slug)
        if found is None:
            raise InputError(f"not all of {'/'.join(key)} is at hand; `gradsim run {model_id}` makes it.")
        for part in parts:
            check_version("/".join(key), self.store.tables.provenance(key, part), model_id, self.version)
        return found

    def candidates(self) -> pl.DataFrame:
        """What BM25 says of all pairs of the products (the table `bm25_candidates`, and where an index gives candidates theirs)."""
        asked = self.store.tables.provenance(
            [DOT_PRODUCTS.name, self.setting], Partition(self.slug, self.shards[0])
        ).get("candidates")
        if by_index(asked):
            return chosen_candidates(self.store.tables, self.slug, self.setting, self.shards, asked)
        return self.store.tables.scan([BM25_CANDIDATES.name], [Partition(shard=one) for one in self.shards]).collect()

    @contextmanager
    def measuring(self, pairs: pl.DataFrame) -> "Iterator[LossChanges]":
        """Measures pairs out of a frame with variant_id and original_id; those that the context policy drops are not there."""
        from gradsim_assets.core.evaluation.one_step import measuring

        request = self.request(pairs)
        with measuring(self.loaded, request, self.setting, self.scratch, self.code_version, self.report) as measure:
            yield measure

    def request(self, pairs: pl.DataFrame) -> "PassRequest":
        """The samples of pairs out of a frame with variant_id and original_id, encoded, without those that the context policy
        drops."""
        from gradsim_assets.core.gradients.pass_inputs import pass_inputs

        chosen = set(pairs["variant_id"].to_list())
        variants = {self.setting: self.variants.filter(pl.col("id").is_in(chosen))}
        return pass_inputs(
            self.originals, variants, pairs, self.loaded, policy=self.policy, products=(), projections={}
        ).request


#: From the work to a table and what the UI shows of it.
Evaluate = Callable[[Work], tuple[pl.DataFrame, Mapping[str, Any]]]


def build_evaluation(
    schema: TableSchema,
    setting: str,
    partitions: Partitions,
    evaluate: Evaluate,
    *,
    op_tags: Mapping[str, Any] | None,
    deps: Sequence[dg.AssetDep],
    decided_by: Sequence[Root],
    config: str,
    description: str,
    group: str = EVALUATION,
) -> dg.AssetsDefinition:
    """One asset; `decided_by` and `config` decide its values, beside what the pairs come from."""
    roots = (*decided_by, *_MADE_FROM)

    @dg.asset(
        key=asset_key(schema.name, setting),
        group_name=group,
        partitions_def=MODELS,
        ins={"dot_products": dg.AssetIn(asset_key(DOT_PRODUCTS.name, setting), partition_mapping=BY_MODEL)},
        deps=[
            dg.AssetDep(HF_MODEL),
            dg.AssetDep(LIMA.name),
            dg.AssetDep(setting, partition_mapping=ALL if setting == PARAPHRASED.name else BY_MODEL),
            *deps,
        ],
        kinds={"pytorch", "parquet"},
        metadata=column_schema(schema),
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        code_version=code_version(*roots, _DECLARED, config=config, without=_STOOD_FOR),
        description=f"{description} Variants: {setting}.",
    )
    @fails_in_one_sentence
    def run_evaluation(
        context: dg.AssetExecutionContext,
        dot_products: pl.LazyFrame,
        hub: ModelHub,
        store: TableStore,
        compute: Compute,
    ) -> dg.MaterializeResult:
        started, slug = time.monotonic(), context.partition_key
        provenance = model_provenance(context, store, setting, dot_products)
        model_id = model_id_of(slug)
        revision = revision_for_run(context, hub, model_id)
        now = hub.version(model_id, revision)
        check_version(f"{DOT_PRODUCTS.name}/{setting}", provenance, model_id, now)
        key, place = asset_key(schema.name, setting), Partition(slug)
        if dot_products.head(1).collect().is_empty():
            why, tags = left_out(model_id, setting), revision_tags(context)
            return saved_table_result(
                context, store, key, schema.empty(), place, metadata=why, provenance=provenance, tags=tags
            )
        shards = partitions.shards.get_partition_keys()
        scratch = compute.places.scratch(group, schema.name, setting, slug)
        with progress(context, f"{schema.name} {setting} {slug}", "originals") as report:
            work = Work(
                setting,
                slug,
                now,
                shards,
                dot_products,
                _variants(store, setting, slug, shards),
                store.tables.read([LIMA.name]),
                loaded_model(context, hub, model_id, revision),
                hub.settings(model_id).context,
                store,
                scratch,
                code_version(*roots),  # what is half done goes on under the very same code alone
                report,
                compute,
                context.log.info,
            )
            frame, metadata = evaluate(work)
        shown = {
            "evaluation_seconds": time.monotonic() - started,
            **metadata,
            **plot_metadata(plots_of(schema.name, frame, setting)),
        }
        result = saved_table_result(
            context, store, key, frame, place, metadata=shown, provenance=provenance, tags=revision_tags(context)
        )
        shutil.rmtree(scratch, ignore_errors=True)
        return result

    return run_evaluation


def left_out(model_id: str, setting: str) -> dict[str, str]:
    """What the UI shows of a table without rows."""
    return {
        "left out": f"{model_id} has no {setting} variants (plain texts have no answers), so that none is evaluated."
    }


def _variants(store: TableStore, setting: str, slug: str, shards: Sequence[str]) -> pl.DataFrame:
    found = store.variants(setting, slug, shards)
    if found is None:
        raise InputError(f"not all texts of {setting} are at hand; `gradsim run {model_id_of(slug)}` makes them.")
    return found
