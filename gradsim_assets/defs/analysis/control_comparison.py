"""The assets `control_comparison_<setting>`."""

import json

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.control_comparison import control_comparison, of_full_gradient
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.partition_keys import keys_pattern, model_id_of, model_slug
from gradsim_assets.core.tables.schemas import CONTROL_COMPARISON, DOT_PRODUCTS, GRADIENT_SIMILARITY, SETTINGS
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, plot_metadata, table_result
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.controls import BASES, control_keys
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import ANALYSIS, TABLE_KINDS
from gradsim_assets.orchestration.partitions import ALL, MODELS, registered
from gradsim_assets.resources.table_store import TableStore


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """One asset a setting."""
    bases = {keys_pattern(one.id, one.checkpoints): model_slug(one.base) for one in settings.models if one.base}
    return [_build(setting, bases) for setting in SETTINGS]


def _build(setting: str, bases: dict[str, str]) -> dg.AssetsDefinition:
    source = [GRADIENT_SIMILARITY.name, setting]

    @dg.asset(
        key=asset_key(CONTROL_COMPARISON.name, setting),
        group_name=ANALYSIS,
        partitions_def=MODELS,
        deps=[
            dg.AssetDep(asset_key(*source), partition_mapping=ALL)
        ],  # of its own controls alone; see orchestration.controls
        kinds=TABLE_KINDS,
        metadata={**column_schema(CONTROL_COMPARISON), BASES: dg.MetadataValue.json(bases)},
        code_version=code_version(
            control_comparison, of_full_gradient, config=json.dumps(bases, sort_keys=True) if bases else ""
        ),
        description=(
            f"A model beside its controls, the same with random weights and its base ({setting}): the difference of their "
            "accuracies on the same variants and candidates, for the full gradient and every component, with paired "
            "intervals. Without registered controls it has no rows; `gradsim models add MODEL --controls` adds them."
        ),
    )
    @fails_in_one_sentence
    def run_control_comparison(
        context: dg.AssetExecutionContext, store: TableStore
    ) -> dg.MaterializeResult[pl.DataFrame]:
        model, known = context.partition_key, registered(context.instance)
        own = store.tables.read(source, Partition(model))
        controls = {
            key: store.tables.read(source, Partition(key))
            for key in control_keys(model, bases)
            if key in known and store.tables.exists(source, Partition(key))
        }
        frame = control_comparison(own, {model_id_of(key): table for key, table in controls.items()})
        made_from = store.tables.provenance(source, Partition(model))
        taken = ("revision", "settings", "numerics", "retriever", "dataset", DOT_PRODUCTS.name)
        provenance = {
            "model": model_id_of(model),
            **{name: made_from[name] for name in taken if made_from.get(name)},
            GRADIENT_SIMILARITY.name: fingerprint(own),
            "controls": {
                model_id_of(key): {
                    "revision": store.tables.provenance(source, Partition(key)).get("revision"),
                    "fingerprint": fingerprint(table),
                }
                for key, table in controls.items()
            },
        }
        differences = {f"difference/{row['control']}": row["difference"] for row in of_full_gradient(frame)}
        return table_result(
            CONTROL_COMPARISON,
            frame,
            metadata={
                **{name: value for name, value in differences.items() if value is not None},
                **plot_metadata(plots_of(CONTROL_COMPARISON.name, frame, setting)),
            },
            provenance=provenance,
        )

    return run_control_comparison
