"""A check that compares accuracies with those of the materialisation before."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.schemas import RETRIEVAL, SETTINGS
from gradsim_assets.defs.checks.results import check_result, checked_partition
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.partitions import MODELS

DRIFT = "accuracy_drift"


def drift() -> dg.AssetChecksDefinition:
    """The check of the accuracies of both settings."""
    specs = [
        dg.AssetCheckSpec(
            DRIFT,
            asset=asset_key(RETRIEVAL.name, setting),
            partitions_def=MODELS,
            description="Retrieval accuracy has not moved by more than 0.1 since the previous revision of the model.",
        )
        for setting in SETTINGS
    ]

    @dg.multi_asset_check(name="retrieval_drift", specs=specs, can_subset=True)
    @fails_in_one_sentence
    def check_drift(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        partition = checked_partition(context, "model")
        for check_key in sorted(context.selected_asset_check_keys):
            current, previous = _accuracies(context.instance, check_key.asset_key, str(partition.model))
            found = soundness.drift(current, previous)
            yield check_result(found, check_key.asset_key, partition, DRIFT, {}, severity=dg.AssetCheckSeverity.WARN)

    return check_drift


def _accuracies(instance: dg.DagsterInstance, key: dg.AssetKey, slug: str) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracies by method of the latest materialisation, and of the latest one of another revision."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[slug]), limit=50
    ).records
    tables = [record.asset_materialization.metadata for record in records if record.asset_materialization]
    if not tables:
        return {}, {}
    revision = _text(tables[0], "gradsim/revision")
    older = next((table for table in tables if _text(table, "gradsim/revision") != revision), {})
    return _methods(tables[0]), _methods(older)


def _text(metadata: Mapping[str, Any], name: str) -> Any:
    return getattr(metadata.get(name), "value", None)


def _methods(metadata: Mapping[str, Any]) -> dict[str, float]:
    prefix = "accuracy/"
    return {
        name.removeprefix(prefix): float(value.value) for name, value in metadata.items() if name.startswith(prefix)
    }
