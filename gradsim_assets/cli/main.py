"""Commands of the console script."""

import sys
from typing import Any

import click

from gradsim_assets import __version__
from gradsim_assets.cli import (
    backfill,
    check,
    doctor,
    explain,
    export,
    init,
    models,
    plan,
    report,
    run,
    scripts,
    slurm,
    spent,
    status,
    trace,
)
from gradsim_assets.cli.instance import BAD_INPUT, FAILED, launcher
from gradsim_assets.configuration import WEB_PORT
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.room import full_disk

#: What a control plane's environment lacks.
_COMPUTE = ("torch", "transformers", "datasets", "trak")


#: What commands are for, in the order in which a person comes to need them.
TASKS = {
    "Begin": ("demo", "init", "check", "doctor"),
    "Run an experiment": ("models", "plan", "run", "slurm", "backfill", "status", "spent"),
    "See what came out": ("ui", "report", "trace", "explain"),
    "Bring results elsewhere": ("export", "export-scripts", "import-scripts"),
}


#: Characters of a command's first sentence, which is told whole.
_WHOLE = 300


class _Commands(click.Group):
    """Commands by task in the order of an experiment, and bad input told in one sentence without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        ordered = [name for names in TASKS.values() for name in names if name in self.commands]
        return [*ordered, *(name for name in self.commands if name not in ordered)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = self.list_commands(ctx)
        width = max(map(len, left))
        for task, names in {
            **TASKS,
            "Others": [name for name in left if not any(name in one for one in TASKS.values())],
        }.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(_WHOLE)) for name in names if name in left
            ]
            if rows:
                with formatter.section(task):
                    formatter.write_dl(rows)

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


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="gradsim")
def main() -> None:
    """What did a fine-tuned language model learn from?

    Loss gradients of variants of training samples are compared with those of the originals, component by component. Everything
    local lies in GRADSIM_HOME (.gradsim by default); gradsim.toml says which data and models are studied.

    \b
    Examples:
      gradsim demo                           everything on a small embedded model, in minutes
      gradsim run amd/AMD-OLMo-1B-SFT        what is missing or stale for a model
      gradsim report --open                  the report of it
      gradsim run --help                     what a command does, with examples
    """


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, help="Port of Dagster's UI.")
@click.option("--web-port", default=WEB_PORT, show_default=True, help="Port of the front page and the reports.")
def ui(host: str, port: int, web_port: int) -> None:
    """Serve the front page with all models and reports, and beside it Dagster's UI and its daemon, on this machine.

    Both addresses are printed. A service that dies is started again; Ctrl-C stops all of them, and runs at work go on.

    \b
    Examples:
      gradsim ui
      gradsim ui --port 4000 --web-port 4001     a second home at the same time
      gradsim ui --host 0.0.0.0                  for other machines; Dagster has no login
    """
    from gradsim_assets.runs.services import serve

    launcher(launches=True)
    sys.exit(serve(host, port, web_port))


for command in (
    run.demo,
    init.init,
    check.check,
    run.run,
    slurm.slurm,
    trace.trace,
    ui,
    models.models,
    status.status,
    spent.spent,
    report.report,
    doctor.doctor,
    plan.plan,
    export.export,
    scripts.import_scripts,
    scripts.export_scripts,
    explain.explain,
    backfill.backfill,
):
    main.add_command(command)
