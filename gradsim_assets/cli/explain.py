"""`gradsim explain`: the chain from a number back to its sources."""

import json
from typing import TYPE_CHECKING, Any

import click

from gradsim_assets.cli import completion
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.core.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from gradsim_assets.orchestration.provenance_chain import Link


@click.command()
@click.argument("table", shell_complete=completion.tables)
@click.argument("model", type=MODEL_ID)
@click.argument("sample", shell_complete=completion.samples)
@click.option(
    "--json", "as_json", is_flag=True, help="JSON on one line: the files of the chain, the first with its rows."
)
def explain(table: str, model: str, sample: str, as_json: bool) -> None:
    """Print the chain from SAMPLE's rows in TABLE of MODEL back to its sources.

    TABLE is named as in the UI or as its folder: `retrieval_paraphrased`, `retrieval/paraphrased`.

    \b
    Examples:
      gradsim explain retrieval_paraphrased demo demo_106
      gradsim explain dot_products/paraphrased demo demo_106 --json
    """
    from gradsim_assets.cli.instance import launcher as open_launcher
    from gradsim_assets.configuration import load_settings
    from gradsim_assets.core.partition_keys import model_slug, shard_keys
    from gradsim_assets.core.tables.provenance import shown_provenance
    from gradsim_assets.core.tables.storage import Tables
    from gradsim_assets.core.tables.table_names import path_of_table
    from gradsim_assets.orchestration.provenance_chain import chain
    from gradsim_assets.orchestration.stale_status import StatusResolver

    settings, path = load_settings(), path_of_table(table)
    launcher, tables = open_launcher(), Tables(settings.tables)
    resolver = StatusResolver(launcher.instance, launcher.repository.asset_graph, files=launcher.files())
    links = chain(resolver, tables, path, model_slug(model), sample, shard_keys(settings.data.shards))
    if not links:
        raise InputError(f"{table} was not computed for {model} yet; `gradsim run {model}` computes it.")
    if links[0].lost:
        raise InputError(links[0].lost)
    if as_json:
        click.echo(json.dumps([_described(link) for link in links], default=str))
        return
    for link in links:
        indent = "  " * link.depth
        changed = "  (CHANGED since it was read)" if link.unchanged is False else ""
        click.echo(f"{indent}{'← ' if link.depth else ''}{link.table} {link.partition}{changed}")
        if link.lost:
            click.echo(f"{indent}    MISSING: {link.lost}")
            continue
        known = shown_provenance(link.provenance)
        click.echo(f"{indent}    " + (", ".join(f"{k} {v}" for k, v in known.items()) or "foreign: no provenance"))
        if not link.depth:
            _print_rows(link.rows)


def _described(link: "Link") -> dict[str, Any]:
    """One file of the chain for programs; rows are those of the table that was asked for alone."""
    return {
        "depth": link.depth,
        "table": link.table,
        "partition": dict(link.partition.levels),
        "provenance": dict(link.provenance),
        "unchanged": link.unchanged,
        "lost": link.lost,
        **({"rows": link.rows.fill_nan(None).to_dicts()} if not link.depth else {}),
    }


def _print_rows(rows: "pl.DataFrame") -> None:
    import polars as pl

    with pl.Config(tbl_rows=12, tbl_width_chars=160, tbl_hide_dataframe_shape=True, tbl_formatting="MARKDOWN"):
        click.echo(str(rows))
    click.echo(f"{rows.height} rows")
