"""The asset `tracin_paraphrased`, where a run with checkpoints is configured."""

import json

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.tracin import tracin
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.learning_rates import mean_rate
from gradsim_assets.core.models.trajectories import Checkpoint
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, GRADIENT_SIMILARITY, TRACIN
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.controls import RUNS, earlier_checkpoints
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import ALL, MODELS, Partitions, registered
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The asset of each setting whose variants are the same at all checkpoints; none without a run under [[models]]."""
    return [_build(setting, settings, partitions) for setting in TRACIN.parts] if settings.trajectories else []


def _build(setting: str, settings: Settings, partitions: Partitions) -> dg.AssetsDefinition:
    shards, runs = partitions.shards.get_partition_keys(), settings.trajectories

    @dg.asset(
        key=asset_key(TRACIN.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        # Of the checkpoints of its own run alone (see orchestration.controls). The products are read themselves; of those of many
        # checkpoints and shards Dagster would look at none.
        deps=[dg.AssetDep(asset_key(GRADIENT_SIMILARITY.name, setting), partition_mapping=ALL)],
        kinds=TABLE_KINDS,
        metadata={**column_schema(TRACIN), RUNS: dg.MetadataValue.json(runs)},
        code_version=code_version(tracin, PairProducts, mean_rate, Checkpoint, config=json.dumps(runs, sort_keys=True)),
        description=(
            f"Products of gradients ({setting}) summed over the checkpoints of a run up to this one, each times its learning rate "
            "(TracIn, Pruthi et al. 2020). Without rows for models that are no checkpoints, and where learning rates are not known."
        ),
    )
    @fails_in_one_sentence
    def run_tracin(
        context: dg.AssetExecutionContext, hub: ModelHub, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        model_id = model_id_of(context.partition_key)
        known = registered(context.instance)
        keys = [*earlier_checkpoints(context.partition_key, known, runs), context.partition_key]
        checkpoints = [one for key in keys if (one := settings.checkpoint_of(model_id_of(key)))]
        why, rates = _rates(model_id, checkpoints, setting, hub, store)
        if why:
            (context.log.warning if checkpoints else context.log.info)(why)
            return table_result(TRACIN, TRACIN.empty(), metadata={"left out": why}, provenance={"model": model_id})
        frames = {
            one.model_id: store.tables.scan(
                [DOT_PRODUCTS.name, setting], [Partition(model_slug(one.model_id), shard) for shard in shards]
            )
            for one in rates
        }
        frame = tracin([PairProducts.from_frame(frames[one.model_id]) for one in rates], list(rates.values()))
        made_from = {
            one.model_id: {"step": one.step, "learning_rate": rate, "fingerprint": fingerprint(frames[one.model_id])}
            for one, rate in rates.items()
        }
        told = {f"learning rate/step {one.step}": rate for one, rate in rates.items()}
        return table_result(
            TRACIN,
            frame,
            metadata={"checkpoints": len(rates), **told},
            provenance={"model": model_id, "checkpoints": made_from},
        )

    return run_tracin


def _rates(
    model_id: str, checkpoints: list[Checkpoint], setting: str, hub: ModelHub, store: TableStore
) -> tuple[str, dict[Checkpoint, float]]:
    """Why a model has no sum in one sentence ("" if it has), and the learning rate that each checkpoint stands for: the mean of those
    behind the checkpoint before it, up to itself. One of step 0 stands for none.
    """
    if not checkpoints:
        return f"{model_id} is no checkpoint of a run under [[models]].", {}
    found: dict[Checkpoint, float] = {}
    after = 0
    for one in checkpoints:
        place = Partition(model_slug(one.model_id))
        if not store.tables.exists([GRADIENT_SIMILARITY.name, setting], place):
            return (
                f"TracIn of {model_id} sums over all checkpoints before it, and {one.model_id} has no gradients yet; "
                f"`gradsim run {one.run}` computes them.",
                {},
            )
        if one.step == 0:
            continue
        revision = store.tables.provenance([GRADIENT_SIMILARITY.name, setting], place).get("revision", "")
        try:
            rate = mean_rate(hub.learning_rates(one.model_id, revision), after, one.step)
        except InputError as error:
            return f"TracIn of {model_id} is left out: {error}", {}
        if rate is None:
            return (
                f"TracIn of {model_id} is left out: no learning rate of steps {after + 1} to {one.step} stands beside "
                f"{one.model_id} (trainer_state.json of transformers' Trainer, with logging_steps of at most as many); train with "
                "gradsim_assets.integrations.RecordCheckpoints, which writes that of every step.",
                {},
            )
        found[one], after = rate, one.step
    if not any(found.values()):  # no step, or none but those of a warm-up that begins with 0
        return f"{model_id} has no step of training behind it that has changed it.", {}
    return "", found
