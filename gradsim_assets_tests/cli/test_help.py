"""What commands say of themselves."""

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from gradsim_assets.cli import main
from gradsim_assets.cli.main import TASKS


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command and group below one, by how it is called."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_the_overview_has_every_command_under_its_task() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert [task for task in TASKS if f"{task}:" in shown] == list(TASKS)
    assert "Others:" not in shown
    places = [shown.index(f"\n  {name} ") for name in main.list_commands(click.Context(main))]
    assert places == sorted(places) and len(places) == len(main.commands)


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_every_command_says_what_it_does_and_has_examples_of_options_that_it_has(
    name: str, command: click.Command
) -> None:
    shown = CliRunner().invoke(main, [*name.split(), "--help"]).output
    sentence = (command.help or "").splitlines()[0]
    assert sentence[0].isupper() and sentence.rstrip().endswith((".", ":")), sentence
    _, _, examples = shown.partition("Examples:\n")
    lines = [line.strip() for line in examples.split("\n\n")[0].splitlines()]
    known, own = dict(commands()), 0
    for line in lines:
        words = shlex.split(line.partition("     ")[0].partition(" | ")[0].replace('"$(', " ").replace(')"', " "))
        words = words[words.index("gradsim") + 1 :]
        called = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known)
        own += called.startswith(name)
        options = {option for parameter in known[called].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
    assert own, "an example says more than a sentence"
