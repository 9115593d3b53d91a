"""`gradsim export`: a table as a dataset folder, pushed to the hub only when asked."""

from pathlib import Path

import click

from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import load_settings


@click.command()
@click.argument("table")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", type=MODEL_ID, help="Id of the model, for tables that have one.")
@click.option("--license", "license_", help="The hub's identifier of the licence of the content, such as cc-by-nc-4.0.")
@click.option("--push", metavar="REPO", help="Also push it to this dataset of the hub (HF_TOKEN); private.")
def export(table: str, folder: Path, model: str | None, license_: str | None, push: str | None) -> None:
    """Write TABLE (lima, dot_products_paraphrased, ...) as a dataset folder with a card that tells its lineage.

    `datasets.load_dataset(FOLDER)` and pandas open it. Nothing leaves this machine without --push.

    \b
    Examples:
      gradsim export lima my_dataset --license cc-by-nc-4.0
      gradsim export retrieval_paraphrased figures --model demo
    """
    import os

    from gradsim_assets import __version__
    from gradsim_assets.core.datasets.lacking import lacking
    from gradsim_assets.core.exchange.dataset_folder import CardInfo, export_dataset, push_folder
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.core.tables.schemas import PARAPHRASED, TABLES
    from gradsim_assets.core.tables.storage import Tables
    from gradsim_assets.core.tables.table_names import path_of_table

    settings, path = load_settings(), path_of_table(table)
    tables = Tables(settings.tables)
    parts = tables.found(path, model_slug(model) if model else None)
    provenance = [tables.provenance(path, part) for part in parts]
    schema = TABLES[path[0]]
    counts = {"missing": lacking(tables.scan(path, parts).collect()).count} if path[0] == PARAPHRASED.name else {}
    info = CardInfo(
        name=f"{table} of {model}" if model else table,
        description=f"The table `{table}` of gradsim {__version__}.",
        license=license_,
        lineage={
            "configuration": settings.model_dump(mode="json", exclude={"home", "folder", "web"}),
            "partitions": provenance,
        },
        counts=counts,
        columns={name: column.description for name, column in schema.columns.items()},
    )
    click.echo(export_dataset(tables.scan(path, parts), folder, info))
    if push:
        click.echo(push_folder(folder, push, os.environ.get("HF_TOKEN")))
