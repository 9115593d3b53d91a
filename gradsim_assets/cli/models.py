"""`gradsim models`: which models are registered."""

from collections import Counter
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import bare_launcher, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import load_settings

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher


@click.group()
def models() -> None:
    """Models under study: add, list, remove."""


@models.command("add")
@click.argument("model", type=MODEL_ID)
def models_add(model: str) -> None:
    """Register MODEL: a hub id, `id@revision`, or a local folder. Prints its partition key and what it is."""
    from gradsim_assets.demo import DEMO
    from gradsim_assets.resources.by_name import resources

    settings, found = load_settings(), launcher(writes=True)
    resources(settings).hub.check(model)
    click.echo(found.add_model(model))
    if model == DEMO:
        click.echo("  the embedded demo; its first run trains the model")
        return
    shown = {name: getattr(value, "value", value) for name, value in found.observe_model(model, settings).items()}
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"  {name:<{width}}  {f'{value:,}' if 'parameters' in name else value}")


@models.command("list")
def models_list() -> None:
    """Show the registered models: partition key, revision (as observed last), and how their tables stand."""
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.orchestration.model_registry import wrong_keys

    found = launcher()
    versions, states = found.versions(), _states(found)
    rows = [[model, model_slug(model), versions.get(model, "-"), states[model]] for model in found.models()]
    click.echo(columns(["model", "key", "revision", "status"], rows))
    for key in wrong_keys(found.instance):
        click.echo(f"! {key} is no model's key; remove it with `gradsim models remove '{key}'`", err=True)


def _states(found: "Launcher") -> dict[str, str]:
    """How the tables of every model stand, in words."""
    from gradsim_assets.core.partition_keys import model_id_of
    from gradsim_assets.orchestration.standings import DONE, STATES

    counts: dict[str, Counter[str]] = {model: Counter() for model in found.models()}
    for one in found.standings():
        if one.place.model is not None:
            counts[model_id_of(one.place.model)][one.shown] += 1
    others = [state for state in STATES if state != DONE]
    return {
        model: ", ".join(f"{of[state]} {state}" for state in others if of[state]) or "up to date"
        for model, of in counts.items()
    }


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay. Refused while its runs are in flight."""
    from gradsim_assets.orchestration.model_registry import wrong_keys

    load_settings()
    found = bare_launcher(writes=True)
    as_typed = {*found.models(), *wrong_keys(found.instance)}  # a wrong key, or a relative path of an older home
    found.remove_model(model if model in as_typed else MODEL_ID(model))
