"""Commands about what was computed and what is to be: `explain` and `backfill`."""

from typing import TYPE_CHECKING

import click

from gradsim_assets.core.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_SHOWN = (
    *("source", "service", "paraphrase_model", "imported", "revision", "settings", "candidates", "dataset"),
    *("fingerprint", "package_version", "configuration", "run_id"),
)


@click.command()
@click.argument("table")
@click.argument("model")
@click.argument("sample")
def explain(table: str, model: str, sample: str) -> None:
    """Print the chain from SAMPLE's rows in TABLE of MODEL back to its sources.

    TABLE is named as in the UI, such as `retrieval/paraphrased`.
    """
    from gradsim_assets.cli.common import launcher as open_launcher
    from gradsim_assets.explain import chain
    from gradsim_assets.io.tables import Tables
    from gradsim_assets.partitions import model_slug, shard_keys
    from gradsim_assets.settings import load_settings

    settings = load_settings()
    graph, tables = open_launcher().repository.asset_graph, Tables(settings.tables)
    links = chain(graph, tables, table, model_slug(model), sample, shard_keys(settings.data.shards))
    if not links:
        raise InputError(f"{table} was not computed for {model} yet; `gradsim run {model}` computes it.")
    for link in links:
        indent = "  " * link.depth
        changed = "  (CHANGED since it was read)" if link.unchanged is False else ""
        click.echo(f"{indent}{'← ' if link.depth else ''}{link.table} {link.partition}{changed}")
        known = {name: link.provenance[name] for name in _SHOWN if link.provenance.get(name)}
        click.echo(f"{indent}    " + (", ".join(f"{k} {v}" for k, v in known.items()) or "foreign: no provenance"))
        if not link.depth:
            _print_rows(link.rows)


def _print_rows(rows: "pl.DataFrame") -> None:
    import polars as pl

    with pl.Config(tbl_rows=12, tbl_width_chars=160, tbl_hide_dataframe_shape=True, tbl_formatting="MARKDOWN"):
        click.echo(str(rows))
    click.echo(f"{rows.height} rows")


@click.command()
@click.option("--model", "models", multiple=True, help="Only this model (repeatable). Default: all registered ones.")
@click.option("--shard", "shards", multiple=True, help="Only this shard (repeatable). Default: all.")
@click.option("--only", help="Only the assets of one stage: originals, variants, gradients, analyses, comparison.")
@click.option("--stale", is_flag=True, help="Leave alone what was never computed.")
@click.option("--force", is_flag=True, help="Compute also what is there and up to date.")
@click.option("--priority", default=0, show_default=True, help="Runs of a higher priority leave the queue first.")
def backfill(
    models: tuple[str, ...], shards: tuple[str, ...], only: str | None, stale: bool, force: bool, priority: int
) -> None:
    """Hand everything that is missing or stale to the daemon, one partition per run.

    The runs start while `gradsim ui` is up; progress is under Runs > Backfills there.
    """
    from gradsim_assets.automation import launch_backfill, targets
    from gradsim_assets.cli.common import launcher as open_launcher
    from gradsim_assets.defs.jobs import STAGES
    from gradsim_assets.partitions import model_slug

    launcher = open_launcher()
    graph = launcher.repository.asset_graph
    if unknown := [model for model in models if model not in launcher.models()]:
        raise InputError(f"{unknown[0]} is not registered; add it with `gradsim models add {unknown[0]}`.")
    stages = {stage.job: stage.selection for stage in STAGES}
    if only is not None and only not in stages:
        raise InputError(f"there is no stage {only}; choose one of {', '.join(stages)}.")
    wanted = targets(
        launcher.instance,
        graph,
        models=[model_slug(model) for model in models] or None,
        shards=shards or None,
        keys=stages[only].resolve(graph) if only else None,
        missing=not stale,
        force=force,
    )
    if not wanted:
        click.echo("Everything is there and up to date.")
        return
    backfill_id = launch_backfill(launcher.instance, graph, wanted, "gradsim backfill", priority)
    tables = len({target.asset_key for target in wanted})
    click.echo(
        f"backfill {backfill_id}: {len(wanted)} partitions of {tables} assets; it is worked on while `gradsim ui` is up"
    )
