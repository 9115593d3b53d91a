"""Jobs that rerun what is stale."""

import dagster as dg

from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.orchestration.backfills import launch_backfill, unfinished_backfills
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.lost_files import LostFiles
from gradsim_assets.orchestration.partitions import registered
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

STALE, NEEDED = "rerun_stale", "run_needed"


def _sweep(context: dg.OpExecutionContext, store: TableStore) -> int:
    """Removes what other numbers of shards, subsets or slices have left of tables whose models are registered; how many files."""
    slugs = registered(context.instance)
    return sum(len(store.tables.sweep(path, store.partition_keys, slug)) for path in PATHS.values() for slug in slugs)


def rerun_job(name: str, missing: bool) -> dg.JobDefinition:
    """A job that launches a backfill of what is stale, with `missing` also of what was never computed."""
    what = "stale or missing" if missing else "stale"

    @dg.op(name=f"{name}_op")
    @fails_in_one_sentence
    def launch(context: dg.OpExecutionContext, store: TableStore, compute: Compute) -> None:
        graph = context.repository_def.asset_graph
        wanted = targets(context.instance, graph, LostFiles(store.tables, compute.places), missing=missing)
        if busy := context.instance.get_backfills(filters=unfinished_backfills()):
            context.log.info(f"backfill {busy[0].backfill_id} is still at work; nothing is launched beside it")
        elif wanted:
            backfill = launch_backfill(context.instance, graph, wanted, name, priority=-1)
            context.log.info(f"backfill {backfill} over {len(wanted)} {what} partitions")
        else:
            swept = _sweep(context, store)
            context.log.info(
                f"nothing is {what}; {swept} files of shards, subsets or slices that there are no more were removed"
            )

    @dg.job(name=name, description=f"Hands a backfill of everything that is {what} to the daemon.")
    def rerun() -> None:
        launch()

    return rerun
