"""Commands of the console script."""

import sys
from typing import Any

import click

from gradsim_assets import __version__
from gradsim_assets.cli import backfill, check, explain, export, init, models, plan, run, scripts, status, trace
from gradsim_assets.cli.instance import BAD_INPUT, FAILED, launcher
from gradsim_assets.configuration import WEB_PORT
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.room import full_disk

#: What a control plane's environment lacks.
_COMPUTE = ("torch", "transformers", "datasets", "trak")


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
        except click.exceptions.Exit:
            raise
        except Exception as error:
            _say_what_the_disk_says(ctx, error)
            raise


def _say_what_the_disk_says(ctx: click.Context, error: Exception) -> None:
    """Ends a command whose files or folders cannot be used, or have no room, with one sentence."""
    if sentence := full_disk(error):
        click.echo(f"Error: {sentence}", err=True)
        ctx.exit(FAILED)
    if isinstance(error, OSError) and error.filename is not None:  # a file or folder of the user's
        click.echo(
            f"Error: {error.filename} cannot be used ({error.strerror}); check the path and its rights.", err=True
        )
        ctx.exit(BAD_INPUT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradsim")
def main() -> None:
    """What did a fine-tuned language model learn from?

    Compares loss gradients of variants of training samples with those of the originals, component by component.
    """


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, help="Port of Dagster's UI.")
@click.option("--web-port", default=WEB_PORT, show_default=True, help="Port of the front page and the reports.")
def ui(host: str, port: int, web_port: int) -> None:
    """Serve the front page with all models and reports, and beside it Dagster's UI and its daemon, on this machine."""
    from gradsim_assets.runs.services import serve

    launcher(launches=True)
    sys.exit(serve(host, port, web_port))


for command in (
    run.demo,
    init.init,
    check.check,
    run.run,
    trace.trace,
    ui,
    models.models,
    status.status,
    plan.plan,
    export.export,
    scripts.import_scripts,
    scripts.export_scripts,
    explain.explain,
    backfill.backfill,
):
    main.add_command(command)
