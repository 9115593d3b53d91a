"""Commands of the console script."""

import sys
from typing import Any

import click

from gradsim_assets import __version__
from gradsim_assets.cli import exchange, orchestration, plan
from gradsim_assets.cli.common import BAD_INPUT, FAILED, launcher
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.settings import DEMO, Settings, load_settings

#: What a control plane's environment lacks.
_COMPUTE = ("torch", "transformers", "datasets", "pyarrow", "trak")


class _Commands(click.Group):
    """Commands in the order of an experiment, and bad input told in one sentence without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, ServiceError) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(BAD_INPUT if isinstance(error, InputError) else FAILED)
        except ModuleNotFoundError as error:
            if error.name not in _COMPUTE:
                raise
            click.echo(
                f"Error: `gradsim {ctx.invoked_subcommand}` needs {error.name}, which is not installed here; "
                "run it where `gradsim[compute]` is (on Kubernetes in the compute image).",
                err=True,
            )
            ctx.exit(FAILED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradsim")
def main() -> None:
    """What did a fine-tuned language model learn from?

    Compares loss gradients of variants of training samples with those of the originals, component by component.
    """


@main.command()
def demo() -> None:
    """Run everything on the embedded demo and say where the report is."""
    _run(DEMO, "all", force=False, settings=load_settings())


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, help="Port of the web server.")
def ui(host: str, port: int) -> None:
    """Open the Dagster UI (web server and daemon) on this machine."""
    from gradsim_assets.serve import serve

    launcher()
    sys.exit(serve(host, port))


@main.group()
def models() -> None:
    """Models under study: add, list, remove."""


@models.command("add")
@click.argument("model")
def models_add(model: str) -> None:
    """Register MODEL: a hub id, `id@revision`, or a local folder."""
    click.echo(launcher().add_model(model))


@models.command("list")
def models_list() -> None:
    """Show the registered models with their partition keys."""
    from gradsim_assets.partitions import model_slug

    for model in launcher().models():
        click.echo(f"{model}\t{model_slug(model)}")


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay. Refused while its runs are in flight."""
    launcher().remove_model(model)


#: What `--only` leaves of the stages; the demo of what a GPU is needed for, and of what it is not.
PARTS = {
    "all": ("originals", "variants", "gradients", "analyses", "comparison"),
    "datasets": ("originals", "variants"),
    "gradients": ("originals", "variants", "gradients"),
    "analyses": ("analyses", "comparison"),
}


@main.command()
@click.argument("model")
@click.option("--only", type=click.Choice([part for part in PARTS if part != "all"]), help="A part of the work alone.")
@click.option("--force", is_flag=True, help="Compute also what is there and up to date.")
def run(model: str, only: str | None, force: bool) -> None:
    """Materialise what is missing or stale for MODEL: datasets, gradients, analyses, report."""
    _run(model, only or "all", force, load_settings())


def _run(model_id: str, part: str, force: bool, settings: Settings) -> None:
    from gradsim_assets.cli.summary import print_summary
    from gradsim_assets.definitions import resources
    from gradsim_assets.defs.jobs import STAGES

    runs = launcher()
    runs.add_model(model_id)
    if part != "analyses":
        runs.observe(model_id, resources(settings)["hub"].version_now(model_id))  # type: ignore[union-attr]
    ran = 0
    for stage in STAGES:
        if stage.job not in PARTS[part]:
            continue
        for partition, assets in runs.work(stage, model_id, force).items():
            assets = _with_inputs(assets, model_id, settings) if part == "analyses" else assets
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


def _with_inputs(assets: list[Any], model_id: str, settings: Settings) -> list[Any]:
    """Those analyses whose gradient tables are there: imported results may hold one setting alone, and sizes of their own."""
    from gradsim_assets.io.tables import Partition, Tables
    from gradsim_assets.partitions import model_slug
    from gradsim_assets.schemas import DOT_PRODUCTS, PARAMETERS_PER_COMPONENT, SETTINGS

    tables, slug = Tables(settings.tables), model_slug(model_id)
    absent = {s for s in SETTINGS if not tables.exists([DOT_PRODUCTS.name, s], Partition(slug, "00"))}
    if absent == set(SETTINGS):
        raise InputError(
            f"{model_id} has no gradient tables yet; run it without --only analyses, or import its results."
        )
    sizes = [PARAMETERS_PER_COMPONENT.name]
    imported = tables.exists(sizes, Partition(slug)) and "imported" in tables.provenance(sizes, Partition(slug))
    return [key for key in assets if key.path[-1] not in absent and not (imported and key.path == sizes)]


main.add_command(plan.plan)
main.add_command(exchange.export)
main.add_command(exchange.import_scripts)
main.add_command(exchange.export_scripts)
main.add_command(orchestration.explain)
main.add_command(orchestration.backfill)
