"""Commands of the console script."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from gradsim_assets import __version__
from gradsim_assets.cli.orchestration import backfill, explain
from gradsim_assets.core.errors import InputError
from gradsim_assets.settings import DEMO, Settings, load_settings

if TYPE_CHECKING:
    from gradsim_assets.launch import Launcher

#: Exit codes: 1 a run failed, 2 bad input or usage (click's own code for usage).
FAILED, BAD_INPUT = 1, 2


class _Commands(click.Group):
    """Commands in the order of an experiment, and bad input told in one sentence without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(BAD_INPUT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradsim")
def main() -> None:
    """What did a fine-tuned language model learn from?

    Compares loss gradients of variants of training samples with those of the originals, component by component.
    """


def _launcher() -> "Launcher":
    """A launcher on the instance that the UI uses, with the configured models registered."""
    import logging

    from gradsim_assets.launch import Launcher, prepare_environment

    settings = load_settings()  # first of all: a fault in gradsim.toml is told before Dagster starts
    prepare_environment()
    logging.getLogger("dagster").setLevel(logging.ERROR)
    import dagster as dg

    launcher = Launcher(dg.DagsterInstance.get())
    for model in settings.models:
        launcher.add_model(model.id)
    return launcher


@main.command()
def demo() -> None:
    """Run everything on the embedded demo and say where the report is."""
    _run(DEMO, "all", force=False, settings=load_settings())


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, help="Port of the web server.")
def ui(host: str, port: int) -> None:
    """Open the Dagster UI (web server and daemon) on this machine."""
    _launcher()
    arguments = ["dagster", "dev", "-m", "gradsim_assets.definitions", "-h", host, "-p", str(port)]
    click.echo(f"http://{host}:{port}  (stop with Ctrl-C)")
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


@main.group()
def models() -> None:
    """Models under study: add, list, remove."""


@models.command("add")
@click.argument("model")
def models_add(model: str) -> None:
    """Register MODEL: a hub id, `id@revision`, or a local folder."""
    click.echo(_launcher().add_model(model))


@models.command("list")
def models_list() -> None:
    """Show the registered models with their partition keys."""
    from gradsim_assets.partitions import model_slug

    for model in _launcher().models():
        click.echo(f"{model}\t{model_slug(model)}")


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay. Refused while its runs are in flight."""
    _launcher().remove_model(model)


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

    launcher = _launcher()
    launcher.add_model(model_id)
    if part != "analyses":
        revision = resources(settings)["hub"].resolve(model_id)  # type: ignore[union-attr]
        launcher.observe(model_id, revision.name)
    ran = 0
    for stage in STAGES:
        if stage.job not in PARTS[part]:
            continue
        for partition, assets in launcher.work(stage, model_id, force).items():
            ran += 1
            outcome = launcher.run(stage, partition, assets)
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


main.add_command(explain)
main.add_command(backfill)
