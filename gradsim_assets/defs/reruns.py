"""Jobs that rerun what is stale."""

import dagster as dg

from gradsim_assets.orchestration.backfills import launch_backfill, targets, unfinished_backfills
from gradsim_assets.orchestration.failures import fails_in_one_sentence

STALE, NEEDED = "rerun_stale", "run_needed"


def rerun_job(name: str, missing: bool) -> dg.JobDefinition:
    """A job that launches a backfill of what is stale, with `missing` also of what was never computed."""
    what = "stale or missing" if missing else "stale"

    @dg.op(name=f"{name}_op")
    @fails_in_one_sentence
    def launch(context: dg.OpExecutionContext) -> None:
        graph = context.repository_def.asset_graph
        wanted = targets(context.instance, graph, missing=missing)
        if busy := context.instance.get_backfills(filters=unfinished_backfills()):
            context.log.info(f"backfill {busy[0].backfill_id} is still at work; nothing is launched beside it")
        elif wanted:
            backfill = launch_backfill(context.instance, graph, wanted, name, priority=-1)
            context.log.info(f"backfill {backfill} over {len(wanted)} {what} partitions")
        else:
            context.log.info(f"nothing is {what}")

    @dg.job(name=name, description=f"Hands a backfill of everything that is {what} to the daemon.")
    def rerun() -> None:
        launch()

    return rerun
