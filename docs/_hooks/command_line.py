"""A hook of mkdocs: what every command says of itself, by task, in the place of a mark."""

from typing import Any

import click

from gradsim_assets.cli.main import TASKS, main
from gradsim_assets.cli.run import PARTS
from gradsim_assets.defs.stages import STAGES

MARK, PARTS_MARK = "<!-- commands -->", "<!-- parts -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every command's help, under the tasks of `gradsim --help`."""
    if MARK not in markdown:
        return markdown
    parts = []
    for task, names in TASKS.items():
        parts += [f"## {task}", *(part for name in names for part in told(name, main.commands[name]))]
    return markdown.replace(MARK, "\n\n".join(parts)).replace(PARTS_MARK, parts_of_a_run())


def parts_of_a_run() -> str:
    """A table of the parts that --only takes, with the jobs that make them up and what those are."""
    described = {stage.job: stage.description.partition(". ")[0].rstrip(".") for stage in STAGES}
    rows = [
        f"| `{part}` | {', '.join(f'`{job}`' for job in jobs)} | {described.get(part, 'the datasets, whatever the model')} |"
        for part, jobs in PARTS.items()
        if part != "all"
    ]
    return "\n".join(["| part | jobs | the job of that name |", "| --- | --- | --- |", *rows])


def told(path: str, command: click.Command) -> list[str]:
    """A heading and the help of a command and of those below it."""
    context = click.Context(command, info_name=f"gradsim {path}", max_content_width=84, terminal_width=84)
    parts = [f"### gradsim {path}", f"```text\n{command.get_help(context)}\n```"]
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        parts += told(f"{path} {name}", below)
    return parts
