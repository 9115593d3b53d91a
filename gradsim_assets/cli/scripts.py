"""`gradsim import-scripts` and `gradsim export-scripts`: the predecessor's result files in and out."""

import sys
from pathlib import Path

import click

from gradsim_assets.cli.instance import FAILED, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import load_settings


@click.command("import-scripts")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, help="Hub id of the model, as in the folder's paths.")
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False), help="The model's config.json, for sizes."
)
@click.option("--sample-size", default="full", show_default=True, help="`full`, or the number in the folder's paths.")
def import_scripts(folder: Path, model: str, config_file: str | None, sample_size: str) -> None:
    """Read the predecessor's result files (its folder data/) as tables of MODEL.

    Afterwards `gradsim run MODEL --only analyses` works from them alone.

    \b
    Examples:
      gradsim import-scripts data --model amd/AMD-OLMo-1B-SFT --config config.json
    """
    from gradsim_assets.defs.exchange.import_scripts import IMPORT_JOB, IMPORT_OP

    config = {
        "folder": str(folder.absolute()),
        "model": model,
        "config_file": str(Path(config_file).absolute()) if config_file else "",
        "sample_size": sample_size,
    }
    outcome = launcher(launches=True).run_job(IMPORT_JOB, {"ops": {IMPORT_OP: {"config": config}}})
    for warning in outcome.warnings:
        click.echo(f"! {warning}", err=True)
    if outcome.error:
        click.echo(f"✗ {outcome.error}", err=True)
        sys.exit(FAILED)
    click.echo(f"✓ imported ({outcome.seconds:.1f} s); next: gradsim run {model} --only analyses")


@click.command("export-scripts")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", type=MODEL_ID, required=True, help="Id of the model.")
@click.option("--sample-size", default="full", show_default=True, help="`full`, or a number, for the folder's paths.")
def export_scripts(folder: Path, model: str, sample_size: str) -> None:
    """Write the tables of MODEL in the predecessor's layout, so that its notebooks still run.

    \b
    Examples:
      gradsim export-scripts data --model amd/AMD-OLMo-1B-SFT
    """
    from gradsim_assets.core.errors import InputError
    from gradsim_assets.core.exchange.scripts_format import write_scripts
    from gradsim_assets.core.partition_keys import model_slug, shard_keys
    from gradsim_assets.core.tables.schemas import SETTINGS
    from gradsim_assets.core.tables.storage import Partition
    from gradsim_assets.resources.table_store import TableStore

    settings = load_settings()
    store, slug = TableStore(root=settings.tables), model_slug(model)
    parts = [Partition(slug, shard) for shard in shard_keys(settings.data.shards)]
    sizes = store.optional(["parameters_per_component"], [Partition(slug)])
    total = None if sizes is None or sizes["parameters"].null_count() else int(sizes["parameters"].sum())
    written = []
    for setting in SETTINGS:
        tables = {name: store.optional([name, setting], parts) for name in ("dot_products", "projected_similarity")}
        similarity = store.optional(["gradient_similarity", setting], [Partition(slug)])
        if any(table is not None for table in (*tables.values(), similarity)):
            written += write_scripts(
                folder,
                model,
                setting,
                gradient_similarity=similarity,
                total_parameters=total,
                sample_size=sample_size,
                **tables,
            )
    if not written:
        raise InputError(
            f"{model} has no complete tables to export; `gradsim run {model} --only gradients` computes them."
        )
    for path in written:
        click.echo(path)
