"""A hook of mkdocs: what every command says of itself, by task, in the place of a mark."""

from typing import Any

import click

from gradsim_assets.cli.main import TASKS, main

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every command's help, under the tasks of `gradsim --help`."""
    if MARK not in markdown:
        return markdown
    parts = []
    for task, names in TASKS.items():
        parts += [f"## {task}", *(part for name in names for part in told(name, main.commands[name]))]
    return markdown.replace(MARK, "\n\n".join(parts))


def told(path: str, command: click.Command) -> list[str]:
    """A heading and the help of a command and of those below it."""
    context = click.Context(command, info_name=f"gradsim {path}", max_content_width=84, terminal_width=84)
    parts = [f"### gradsim {path}", f"```text\n{command.get_help(context)}\n```"]
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        parts += told(f"{path} {name}", below)
    return parts
