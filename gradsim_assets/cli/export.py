"""`gradsim export`: a table as a dataset folder, pushed to the hub only when asked."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import click

from gradsim_assets.cli import completion
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import Settings, load_settings

#: Sections of gradsim.toml, and of [compute] the entries, that decide the values of a group of tables; each has those before it.
_USED: dict[str, dict[str, Any]] = {
    "datasets": {"data": True, "paraphraser": True},
    "candidates": {"data": True, "paraphraser": True},
    "curvature": {"preconditioners": True},
    "gradients": {
        "compute": {"precision", "projections", "projection", "projection_weighting"},
        "preconditioners": True,
    },
    "analysis": {"analysis": True},
    "evaluation": {"evaluation": True, "training": True},
    "index": {"index": True},
}


def used_settings(settings: Settings, table: str, model: str | None) -> dict[str, Any]:
    """What of the configuration decided a table: its sections, and the entries of the models that it is about."""
    from gradsim_assets.core.datasets.paraphrased import OPENAI

    chain = {
        **dict.fromkeys(("lima", "sample_columns", "paraphrased"), ("datasets",)),
        "model_generated": ("datasets",),
        "bm25_candidates": ("datasets",),
        "curvature": ("datasets", "curvature"),
        **dict.fromkeys(("first_order", "tail_patch", "subset_losses"), ("datasets", "gradients", "evaluation")),
        **dict.fromkeys(("linear_datamodeling_score", "removal"), ("datasets", "gradients", "evaluation")),
        "retrieval_by_group": ("datasets", "gradients", "analysis"),
        **dict.fromkeys(("gradient_index", "index_candidates", "index_recall"), ("datasets", "index")),
    }.get(table, ("datasets", "gradients"))
    if settings.indexed and "gradients" in chain:  # the index may have chosen the pairs
        chain = (*chain, "index")
    included = {name: what for group in chain for name, what in _USED[group].items()}
    if settings.data.paraphrases != OPENAI or table in ("lima", "sample_columns"):
        included.pop("paraphraser", None)
    found = settings.model_dump(mode="json", include=included, exclude_none=True)
    if table in ("lima", "sample_columns", "paraphrased", "bm25_candidates"):
        return found
    entries = [one for one in settings.models if model is None or one.id == model]
    return {**found, "models": [one.model_dump(mode="json", exclude_defaults=True) for one in entries]}


def without_paths(value: Any) -> Any:
    """A value without where things lie on this machine: of a path its last name is kept."""
    if isinstance(value, Mapping):
        return {name: without_paths(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    if isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return value


@click.command()
@click.argument("table", shell_complete=completion.tables)
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
        name=f"{table} of {without_paths(model)}" if model else table,
        description=f"The table `{table}` of gradsim {__version__}.",
        license=license_,
        lineage=without_paths({"configuration": used_settings(settings, path[0], model), "partitions": provenance}),
        counts=counts,
        columns={name: column.description for name, column in schema.columns.items()},
    )
    click.echo(export_dataset(tables.scan(path, parts), folder, info))
    if push:
        click.echo(push_folder(folder, push, os.environ.get("HF_TOKEN")))
