"""The asset `model_comparison`."""

import json
from collections.abc import Iterable

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.model_comparison import model_comparison
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.core.tables.schemas import (
    CONTROL_COMPARISON,
    LINEAR_DATAMODELING_SCORE,
    MODEL_COMPARISON,
    RETRIEVAL,
    SETTINGS,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, plot_metadata, table_result
from gradsim_assets.defs.web_links import front_page_link
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import ALL, registered
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings) -> dg.AssetsDefinition:
    runs = settings.trajectories

    @dg.asset(
        name=MODEL_COMPARISON.name,
        group_name=ANALYSIS,
        deps=[
            dg.AssetDep(asset_key(table.name, setting), partition_mapping=ALL)
            for table in (RETRIEVAL, CONTROL_COMPARISON, LINEAR_DATAMODELING_SCORE)
            for setting in SETTINGS
        ],
        kinds=TABLE_KINDS,
        metadata={**front_page_link(settings.web), **column_schema(MODEL_COMPARISON)},
        code_version=code_version(model_comparison, config=json.dumps(runs, sort_keys=True) if runs else ""),
        description=(
            "The retrieval figures of every model side by side, and how the full gradient's differ from those of the model's "
            "controls; models without results yet are left out. Of checkpoints of a run, every figure over the steps: when what "
            "was learned."
        ),
    )
    @fails_in_one_sentence
    def model_comparison_(context: dg.AssetExecutionContext, store: TableStore) -> dg.MaterializeResult[pl.DataFrame]:
        models = settings.ordered(map(model_id_of, registered(context.instance)))
        found = _tables(RETRIEVAL.name, models, store)
        context.log.info(f"{len({model for model, _ in found})} of {len(models)} models have results")
        frame = model_comparison(
            found,
            _tables(CONTROL_COMPARISON.name, models, store),
            _tables(LINEAR_DATAMODELING_SCORE.name, models, store),
            {model: checkpoint for model in models if (checkpoint := settings.checkpoint_of(model))},
        )
        return table_result(
            MODEL_COMPARISON,
            frame,
            metadata=plot_metadata(plots_of(MODEL_COMPARISON.name, frame)),
            provenance={"revisions": _revisions(found, store)},
        )

    return model_comparison_


def _tables(name: str, models: Iterable[str], store: TableStore) -> dict[tuple[str, str], pl.DataFrame]:
    return {
        (model, setting): store.tables.read([name, setting], Partition(slug))
        for model in models
        for slug in (model_slug(model),)
        for setting in SETTINGS
        if store.tables.exists([name, setting], Partition(slug))
    }


def _revisions(found: Iterable[tuple[str, str]], store: TableStore) -> dict[str, str | None]:
    """The revision of every model whose retrieval tables (model, setting) were found; None for imported ones."""
    return {
        model: store.tables.provenance([RETRIEVAL.name, setting], Partition(model_slug(model))).get("revision")
        for model, setting in found
    }
