"""`gradsim backfill`: hand what is missing or stale to the daemon."""

import click

from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import load_settings
from gradsim_assets.core.errors import InputError


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=MODEL_ID,
    help="Only this model (repeatable). Default: all registered ones.",
)
@click.option("--shard", "shards", multiple=True, help="Only this shard (repeatable). Default: all.")
@click.option(
    "--only",
    help="Only the assets of one stage: originals, variants, curvature, gradients, evaluation, analyses, comparison.",
)
@click.option("--stale", is_flag=True, help="Leave alone what was never computed.")
@click.option("--force", is_flag=True, help="Compute also what is there and up to date.")
@click.option("--priority", default=0, show_default=True, help="Runs of a higher priority leave the queue first.")
def backfill(
    models: tuple[str, ...], shards: tuple[str, ...], only: str | None, stale: bool, force: bool, priority: int
) -> None:
    """Hand everything that is missing or stale to the daemon, one partition per run.

    The runs start while `gradsim ui` is up; progress is under Runs > Backfills there.

    \b
    Examples:
      gradsim backfill --model amd/AMD-OLMo-1B-SFT
    """
    from gradsim_assets.cli.instance import launcher as open_launcher
    from gradsim_assets.core.partition_keys import model_slug, shard_keys
    from gradsim_assets.defs.stages import STAGES
    from gradsim_assets.orchestration.backfills import launch_backfill
    from gradsim_assets.orchestration.planner import targets

    launcher = open_launcher(launches=True)
    graph = launcher.repository.asset_graph
    if unknown := [model for model in models if model not in launcher.models()]:
        raise InputError(f"{unknown[0]} is not registered; add it with `gradsim models add {unknown[0]}`.")
    existing = shard_keys(load_settings().data.shards)
    if strange := [shard for shard in shards if shard not in existing]:
        raise InputError(f"there is no shard {strange[0]}; choose from {', '.join(existing)}.")
    stages = {stage.job: stage.selection for stage in STAGES}
    if only is not None and only not in stages:
        raise InputError(f"there is no stage {only}; choose one of {', '.join(stages)}.")
    wanted = targets(
        launcher.instance,
        graph,
        launcher.files(),
        models=[model_slug(model) for model in models] or None,
        shards=shards or None,
        keys=stages[only].resolve(graph) if only else None,
        missing=not stale,
        force=force,
        requested=only is not None,
    )
    if not wanted:
        click.echo("Everything is there and up to date.")
        return
    backfill_id = launch_backfill(launcher.instance, graph, wanted, "gradsim backfill", priority)
    tables = len({target.asset_key for target in wanted})
    click.echo(
        f"backfill {backfill_id}: {len(wanted)} partitions of {tables} assets; it is worked on while `gradsim ui` is up"
    )
