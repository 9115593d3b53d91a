"""`gradsim run` and `gradsim demo`: everything that is missing or stale, for one model."""

import sys
from typing import Any

import click

from gradsim_assets.cli.instance import FAILED, launcher
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.demo import DEMO


@click.command()
def demo() -> None:
    """Run everything on the embedded demo and say where the report is."""
    _run(DEMO, "all", force=False, settings=load_settings())


#: What `--only` leaves of the stages; the demo of what a GPU is needed for, and of what it is not.
PARTS = {
    "all": ("originals", "variants", "gradients", "analyses", "comparison"),
    "datasets": ("originals", "variants"),
    "gradients": ("originals", "variants", "gradients"),
    "analyses": ("analyses", "comparison"),
}


@click.command()
@click.argument("model")
@click.option("--only", type=click.Choice([part for part in PARTS if part != "all"]), help="A part of the work alone.")
@click.option("--force", is_flag=True, help="Compute also what is there and up to date.")
def run(model: str, only: str | None, force: bool) -> None:
    """Materialise what is missing or stale for MODEL: datasets, gradients, analyses, report."""
    _run(model, only or "all", force, load_settings())


def _run(model_id: str, part: str, force: bool, settings: Settings) -> None:
    from gradsim_assets.cli.summary import print_summary
    from gradsim_assets.defs.stages import STAGES
    from gradsim_assets.resources.by_name import resources

    absent: set[str] = set()
    runs = launcher()
    if part == "analyses":
        absent = _absent_settings(model_id, settings)
        runs.add_model(model_id)
    else:
        version = resources(settings).hub.version_now(model_id)
        runs.add_model(model_id)
        runs.observe(model_id, version)
    ran = 0
    for stage in STAGES:
        if stage.job not in PARTS[part]:
            continue
        for partition, assets in runs.work(stage, model_id, force).items():
            assets = _with_inputs(assets, model_id, settings, absent) if part == "analyses" else assets
            if not assets:
                continue
            ran += 1
            outcome = runs.run(stage, partition, assets)
            where = f"{stage.job}{f' {partition}' if partition else ''}"
            if outcome.error:
                click.echo(f"✗ {where}: {outcome.error}", err=True)
                click.echo(
                    f"  run {outcome.run_id}; what finished before is kept, and the same command goes on there",
                    err=True,
                )
                sys.exit(FAILED)
            click.echo(f"✓ {where} ({len(assets)} asset{'s' if len(assets) > 1 else ''}, {outcome.seconds:.1f} s)")
    if not ran:
        click.echo("Everything is there and up to date.")
    if "analyses" in PARTS[part]:
        print_summary(settings, model_id)


def _absent_settings(model_id: str, settings: Settings) -> set[str]:
    """Settings that a model has no gradient tables of: imported results may hold one alone; InputError where it has none."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, SETTINGS
    from gradsim_assets.core.tables.storage import Partition, Tables

    tables, slug = Tables(settings.tables), model_slug(model_id)
    absent = {s for s in SETTINGS if not tables.exists([DOT_PRODUCTS.name, s], Partition(slug, "00"))}
    if absent == set(SETTINGS):
        raise InputError(
            f"{model_id} has no gradient tables yet; run it without --only analyses, or import its results."
        )
    return absent


def _with_inputs(assets: list[Any], model_id: str, settings: Settings, absent: set[str]) -> list[Any]:
    """Those analyses whose gradient tables are there; imported results may hold sizes of their own, too."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT, TABLES
    from gradsim_assets.core.tables.storage import Partition, Tables
    from gradsim_assets.orchestration.asset_keys import asset_key

    tables, slug = Tables(settings.tables), model_slug(model_id)
    sizes = [PARAMETERS_PER_COMPONENT.name]
    imported = tables.exists(sizes, Partition(slug)) and "imported" in tables.provenance(sizes, Partition(slug))
    left_out = {asset_key(schema.name, s) for schema in TABLES.values() for s in absent & set(schema.parts)}
    return [key for key in assets if key not in left_out and not (imported and key == asset_key(*sizes))]
