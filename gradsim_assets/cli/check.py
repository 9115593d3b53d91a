"""`gradsim check`: what is wrong with data, before anything is spent on it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.instance import BAD_INPUT
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.demo import DEMO

if TYPE_CHECKING:
    from gradsim_assets.core.models.tokenization import ChatTokenizer
    from gradsim_assets.core.samples import Sample

#: Faults that are printed; of more, the number.
_MOST_FAULTS = 50


@click.command()
@click.argument("file", required=False)
@click.option("--model", type=MODEL_ID, help="Whose tokens and chat template count; the first of gradsim.toml.")
@click.option("--show", default=3, show_default=True, help="Samples to print as the model sees them.")
def check(file: str | None, model: str | None, show: int) -> None:
    """Say everything that is wrong with FILE (data.originals of gradsim.toml), and show samples as the model will see them.

    FILE is what data.originals may be; columns and filter are those of gradsim.toml. What the loss is on is marked: by colours
    on a terminal, by «» elsewhere. Ends with 0 where nothing is wrong. Weights are not loaded.

    \b
    Examples:
      gradsim check
      gradsim check my_samples.jsonl --model amd/AMD-OLMo-1B-SFT
    """
    from gradsim_assets.core.analysis.retrieval_by_group import grouping
    from gradsim_assets.core.datasets.checking import check_encoding, check_source
    from gradsim_assets.resources.by_name import resources

    settings = load_settings()
    sources = resources(settings).sources
    here = file if file is None or "://" in file else _named_here(file)
    found = check_source(sources.source(here or sources.originals))
    for note in found.notes:
        click.echo(f"{note}.")
    chat = _tokenizer(settings, model or settings.models[0].id)
    lengths, unclear = check_encoding(found.samples, chat)
    faults = [*found.faults, *unclear]
    try:
        for note in grouping(found.columns, settings.analysis.group_by).notes:
            click.echo(f"{note}.")
    except InputError as error:
        faults.append(str(error))
    for fault in faults[:_MOST_FAULTS]:
        click.echo(f"! {fault}", err=True)
    if len(faults) > _MOST_FAULTS:
        click.echo(f"! and {len(faults) - _MOST_FAULTS} more", err=True)
    _show([sample for sample in found.samples if sample.id in lengths][:show], chat)
    click.echo(_summary(len(found.samples), lengths, len(faults)))
    if faults:
        sys.exit(BAD_INPUT)


def _named_here(file: str) -> str:
    """A file by its whole path: in commands, paths begin at the working directory."""
    path = Path(file).expanduser()
    return str(path.absolute()) if path.exists() else file


def _tokenizer(settings: Settings, model: str) -> "ChatTokenizer":
    """The tokenizer of a model with its template; the demo's is made without its model."""
    from gradsim_assets.core.models.loading import NO_LIMIT
    from gradsim_assets.core.models.tokenization import ChatTokenizer
    from gradsim_assets.resources.by_name import resources

    hub = resources(settings).hub
    if model != DEMO:
        return hub.tokenizer(model, hub.resolve(model))
    from gradsim_assets.demo.model import train_tokenizer

    tokenizer = train_tokenizer()
    tokenizer.model_max_length = NO_LIMIT
    return ChatTokenizer(tokenizer, hub.settings(model).chat_template, loss_on=settings.data.loss_on)


def _show(samples: "list[Sample]", chat: "ChatTokenizer") -> None:
    from gradsim_assets.core.datasets.checking import as_seen

    coloured = sys.stdout.isatty()
    for sample in samples:
        click.echo(click.style(f"\n--- {sample.id}", bold=True))
        for text, counted in as_seen(sample, chat):
            if not counted:
                click.echo(text, nl=False)
            elif coloured:
                click.echo(click.style(text, fg="green", reverse=True), nl=False)
            else:
                click.echo(f"«{text}»", nl=False)
        click.echo()


def _summary(samples: int, lengths: Mapping[str, int], faults: int) -> str:
    counted = sorted(lengths.values())
    of_length = f" of {counted[0]} to {counted[-1]} tokens (median {counted[len(counted) // 2]})" if counted else ""
    said = f"{faults} fault{'s' if faults > 1 else ''}" if faults else "nothing is wrong"
    return f"\n{samples} sound samples, {len(lengths)} with a loss that can be told{of_length}: {said}."
