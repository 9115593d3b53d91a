"""The check that lists what is stale, missing or failed: the graph always draws a partitioned asset as fresh."""

from collections import Counter
from collections.abc import Mapping, Sequence

import dagster as dg

from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.schemas import MODEL_COMPARISON
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.dagster_internals import BaseAssetGraph
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.partitions import registered
from gradsim_assets.orchestration.standings import DONE, Standing, standings
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

UP_TO_DATE = "tables_up_to_date"

#: How many partitions the check lists, and how many models its sentence names.
_LISTED, _NAMED = 50, 3

#: It is being written when the check looks.
_WHERE_IT_RUNS = asset_key(MODEL_COMPARISON.name)


def build_status() -> list[dg.AssetChecksDefinition]:
    """The check, on the comparison of all models: there it runs once, and not with every shard."""

    @dg.asset_check(
        asset=MODEL_COMPARISON.name,
        name=UP_TO_DATE,
        description="Warns of models whose tables are missing, stale (with the reason) or failed, and lists the partitions.",
    )
    @fails_in_one_sentence
    def tables_up_to_date(
        context: dg.AssetCheckExecutionContext, store: TableStore, compute: Compute
    ) -> dg.AssetCheckResult:
        graph = context.op_execution_context.repository_def.asset_graph
        found = _out_of_date(context.instance, graph, LostFiles(store.tables, compute.places))
        counts = {model: Counter(one.status for one in found if one.place.model == model) for model in _models(found)}
        models = len(registered(context.instance))
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description=_sentence(counts, models)
            if found
            else f"every table is up to date ({models} model{'s' * (models != 1)})",
            metadata={
                **Counter(one.status for one in found),
                **({"models": _table_of_models(counts), "partitions": _table_of_partitions(found)} if found else {}),
            },
        )

    return [tables_up_to_date]


def status_records(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, files: LostFiles | None = None
) -> list[dg.TableRecord]:
    """One record {table, partition, status, why} for every partition that is stale, failed or missing.

    With `files`, one whose file is lost is missing too.
    """
    return [_record(one) for one in _out_of_date(instance, graph, files)]


def _out_of_date(instance: dg.DagsterInstance, graph: BaseAssetGraph, files: LostFiles | None) -> list[Standing]:
    return [one for one in standings(instance, graph, files, without=[_WHERE_IT_RUNS]) if one.status != DONE]


def _record(one: Standing) -> dg.TableRecord:
    table = one.table.to_user_string()
    return dg.TableRecord({"table": table, "partition": one.partition or "", "status": one.status, "why": one.why})


def _models(found: Sequence[Standing]) -> list[str | None]:
    """The models of partitions, in order; None for what belongs to no model, which comes first."""
    return sorted({one.place.model for one in found}, key=lambda model: (model is not None, model or ""))


def _sentence(counts: Mapping[str | None, Counter[str]], models: int) -> str:
    """Which models lack what, and what mends it."""
    of_models = [model for model in counts if model is not None]
    named = [*(model for model in counts if model is None), *of_models[:_NAMED]]
    told = "; ".join(f"{_name(model)}: {_told(counts[model])}" for model in named)
    more = f"; and {len(of_models) - _NAMED} models more" if len(of_models) > _NAMED else ""
    one = len(of_models) == 1
    mend = f"`gradsim run {model_id_of(of_models[0])}`" if one else "`gradsim run MODEL` or `gradsim backfill`"
    return (
        f"{len(of_models)} of {models} models {'is' if one else 'are'} out of date ({told}{more}); {mend} computes what is "
        "missing or stale"
    )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


def _name(model: str | None) -> str:
    return "tables of all models" if model is None else model_id_of(model)


def _table_of_models(counts: Mapping[str | None, Counter[str]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [dg.TableRecord({"model": _name(model), "partitions": _told(found)}) for model, found in counts.items()]
    )


def _table_of_partitions(found: Sequence[Standing]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([_record(one) for one in found[:_LISTED]])
