"""`gradsim models`: which models are registered."""

import click

from gradsim_assets.cli.instance import launcher


@click.group()
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
    from gradsim_assets.core.partition_keys import model_slug

    for model in launcher().models():
        click.echo(f"{model}\t{model_slug(model)}")


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay. Refused while its runs are in flight."""
    launcher().remove_model(model)
