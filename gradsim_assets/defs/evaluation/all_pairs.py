"""The assets `all_pairs_<setting>`, `all_pairs_projected_<setting>` and, where there are preconditioners,
`all_pairs_preconditioned_<setting>`: one pass over every variant with every original."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.gradients.numerics_version import NUMERICS
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import (
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
    TABLES,
)
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.curvature.factors import preconditioners_of
from gradsim_assets.defs.evaluation.retrainings import RetrainingPlan
from gradsim_assets.defs.gradients import pass_tables
from gradsim_assets.defs.models.hf_model import HF_MODEL, loaded_model, provenance_of, revision_for_run
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema
from gradsim_assets.orchestration.asset_keys import of_each_setting, table_path
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import EVALUATION
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, MODELS
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassResult

_DESCRIPTIONS = {
    ALL_PAIRS.name: "As dot_products, but of every variant with every original, whatever the candidates are.",
    ALL_PAIRS_PROJECTED.name: "As projected_similarity, but of every variant with every original.",
    ALL_PAIRS_PRECONDITIONED.name: "As preconditioned_products, but of every variant with every original.",
}


def build(settings: Settings, op_tags: Mapping[str, Any] | None = None) -> dg.AssetsDefinition:
    """The products of all pairs, out of one pass."""
    plan = RetrainingPlan(settings)
    tables = pass_tables.configured(settings, (TABLES[name] for name in _DESCRIPTIONS))

    @dg.multi_asset(
        name="all_pairs",
        specs=[_spec(key, settings) for key in of_each_setting(*tables)],
        partitions_def=MODELS,
        can_subset=True,
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
    )
    @fails_in_one_sentence
    def all_pairs(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore, compute: Compute
    ) -> Iterator[dg.MaterializeResult]:
        yield from _all_pairs(context, plan, hub, store, compute)

    return all_pairs


def _spec(key: dg.AssetKey, settings: Settings) -> dg.AssetSpec:
    table, setting = table_path(key)
    return dg.AssetSpec(
        key,
        deps=[
            dg.AssetDep(HF_MODEL),
            dg.AssetDep(LIMA.name),
            # Of both settings, so that one pass makes all of them: see `waits_only`.
            dg.AssetDep(PARAPHRASED.name, partition_mapping=ALL),
            dg.AssetDep(MODEL_GENERATED.name, partition_mapping=BY_MODEL),
            *pass_tables.curvature_deps(settings),
        ],
        skippable=True,
        group_name=EVALUATION,
        kinds={"pytorch", "parquet"},
        description=f"{_DESCRIPTIONS[table]} COST: one gradient of every sample, and a row for every pair. Variants: {setting}.",
        metadata=column_schema(TABLES[table]),
        code_version=code_version(
            "core.models.loading:load_model",
            "core.gradients.pass_inputs:pass_inputs",
            f"core.evaluation.{table}",
            *pass_tables.declared(table),
            config=pass_tables.decides(settings, table),
            without=NUMERICS,
        ),
    )


def _all_pairs(
    context: dg.AssetExecutionContext, plan: RetrainingPlan, hub: ModelHub, store: TableStore, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    from gradsim_assets.core.evaluation.all_pairs import every_pair
    from gradsim_assets.core.gradients.pass_inputs import pass_inputs

    selected = {key: table_path(key) for key in sorted(context.selected_asset_keys)}
    model_id = model_id_of(context.partition_key)
    texts = {LIMA.name: store.tables.read([LIMA.name])}
    variants = {
        setting: plan.variants(store, setting, model_id)
        for setting in dict.fromkeys(setting for _, setting in selected.values())
    }
    asked, tuning = pass_tables.asked(selected.values(), plan.settings, compute), plan.settings.preconditioners
    with progress(context, f"all pairs {context.partition_key}", "gradients") as report:
        loaded = loaded_model(context, hub, model_id, revision_for_run(context, hub, model_id))
        inputs = pass_inputs(
            texts[LIMA.name],
            variants,
            every_pair(texts[LIMA.name], variants.values()),
            loaded,
            policy=hub.settings(model_id).context,
            **asked._asdict(),
        )
        model = hub.version(model_id, loaded.revision)
        kinds = inputs.request.preconditioners
        stored, curvature = preconditioners_of(kinds, store, compute, context.partition_key, model, tuning)
        scratch = compute.places.scratch(ALL_PAIRS.name, context.partition_key)
        version = code_version("core.models.loading:load_model", "core.gradients.engine:run_pass")
        provenance = {
            **provenance_of(hub, model_id, loaded.revision),
            LIMA.name: fingerprint(texts[LIMA.name]),
            "dropped": inputs.counts["dropped"],
        }
        with compute.run_pass(loaded, inputs.request, scratch, report, context.log.info, version, stored) as result:
            place, choice = Partition(context.partition_key), hub.settings(model_id).choice
            made_from = (loaded.revision.name, str(loaded.model.dtype), *filter(None, [choice, loaded.quantised]))
            done = pass_tables.FinishedPass(
                context, store, compute, place, inputs, result, loaded.device, made_from, curvature
            )
            for key, (table, setting) in selected.items():
                frame = _frame(table, result, setting, inputs.request.pairs[setting])
                yield done.saved(key, frame, {**provenance, setting: fingerprint(variants[setting])})


def _frame(
    table: str, result: "PassResult", setting: str, pairs: Sequence[tuple[str, str]]
) -> pl.DataFrame | pl.LazyFrame:
    """A table out of a pass."""
    from gradsim_assets.core.evaluation.all_pairs import all_pairs
    from gradsim_assets.core.evaluation.all_pairs_preconditioned import all_pairs_preconditioned
    from gradsim_assets.core.evaluation.all_pairs_projected import all_pairs_projected

    made: dict[str, Callable[..., pl.DataFrame | pl.LazyFrame]] = {
        ALL_PAIRS.name: all_pairs,
        ALL_PAIRS_PROJECTED.name: all_pairs_projected,
        ALL_PAIRS_PRECONDITIONED.name: all_pairs_preconditioned,
    }
    return (
        TABLES[table].empty()
        if pass_tables.holds_nothing(table, result, setting)
        else made[table](result, setting, pairs)
    )
