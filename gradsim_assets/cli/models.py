"""`gradsim models`: which models are registered."""

import click

from gradsim_assets.cli.instance import bare_launcher, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import load_settings


@click.group()
def models() -> None:
    """Models under study: add, list, remove."""


@models.command("add")
@click.argument("model", type=MODEL_ID)
def models_add(model: str) -> None:
    """Register MODEL: a hub id, `id@revision`, or a local folder."""
    from gradsim_assets.resources.by_name import resources

    found = launcher(writes=True)
    resources(load_settings()).hub.check(model)
    click.echo(found.add_model(model))


@models.command("list")
def models_list() -> None:
    """Show the registered models with their partition keys."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.orchestration.model_registry import wrong_keys

    found = launcher()
    for model in found.models():
        click.echo(f"{model}\t{model_slug(model)}")
    for key in wrong_keys(found.instance):
        click.echo(f"! {key} is no model's key; remove it with `gradsim models remove '{key}'`", err=True)


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay. Refused while its runs are in flight."""
    from gradsim_assets.orchestration.model_registry import wrong_keys

    load_settings()
    found = bare_launcher(writes=True)
    as_typed = {*found.models(), *wrong_keys(found.instance)}  # a wrong key, or a relative path of an older home
    found.remove_model(model if model in as_typed else MODEL_ID(model))
