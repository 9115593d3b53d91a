"""`gradsim models`: which models are registered."""

import json
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import bare_launcher, launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.controls import BASE, UNTRAINED, control_kind, trained_id
from gradsim_assets.demo import EMBEDDED

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher


@click.group()
def models() -> None:
    """Models under study: add, list, remove.

    \b
    Examples:
      gradsim models add amd/AMD-OLMo-1B-SFT --controls
      gradsim models list
    """


@models.command("add")
@click.argument("model", type=MODEL_ID)
@click.option("--controls", is_flag=True, help="Also the models that cannot know its originals: see below.")
def models_add(model: str, controls: bool) -> None:
    """Register MODEL: a hub id, `id@revision`, or a local folder. Prints its partition key and what it is.

    Its controls are MODEL+untrained, the same configuration with random weights, and the model before its fine-tuning, where
    gradsim.toml names it: `base` of its entry under [[models]].

    \b
    Examples:
      gradsim models add amd/AMD-OLMo-1B-SFT --controls
      gradsim models add ./my_model
    """
    from gradsim_assets.resources.by_name import resources

    settings, found = load_settings(), launcher(writes=True)
    if controls and trained_id(model) is not None:
        raise InputError(f"{model} is a control itself; give the model that it is one of: {trained_id(model)}.")
    wanted = [model, *(settings.controls_of(model) if controls else ())]
    for one in wanted:
        resources(settings).hub.check(one)  # all of them before any is registered
    for one in wanted:
        click.echo(found.add_model(one))
        if one != model:
            click.echo(f"  control of {model}: {_CONTROLS[control_kind(one)]}")
        _describe(found, one, settings)
    if controls and model not in settings.bases:
        click.echo(f"no base is named for {model} under [[models]] (base = ...), so its base is no control")


_CONTROLS = {UNTRAINED: "the same configuration with random weights", BASE: "the model before its fine-tuning"}


def _describe(found: "Launcher", model: str, settings: Settings) -> None:
    if (trained_id(model) or model) in EMBEDDED:
        click.echo("  the embedded demo; its first run trains the model")
        return
    shown = {name: getattr(value, "value", value) for name, value in found.observe_model(model, settings).items()}
    width = max(map(len, shown))
    for name, value in shown.items():
        click.echo(f"  {name:<{width}}  {f'{value:,}' if 'parameters' in name else value}")


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON on one line instead of a table.")
def models_list(as_json: bool) -> None:
    """Show the registered models: partition key, revision (as observed last), how their tables stand, whose controls they are.

    \b
    Examples:
      gradsim models list
      gradsim models list --json
    """
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.orchestration.model_registry import wrong_keys

    found = launcher()
    versions, states, known = found.versions(), found.states(), found.models()
    studied = load_settings().studied(known)
    found_models = [
        {
            "model": model,
            "key": model_slug(model),
            "revision": versions.get(model),
            "status": states[model],
            "control_of": studied.get(model),
        }
        for model in known
    ]
    if as_json:
        click.echo(json.dumps(found_models))
    else:
        header = ["model", "key", "revision", "status", *(["control_of"] if studied else [])]
        missing = {"revision": "-", "control_of": ""}
        rows = [[one[name] or missing[name] for name in header] for one in found_models]
        click.echo(columns([name.replace("_", " ") for name in header], rows))
    for key in wrong_keys(found.instance):
        click.echo(f"! {key} is no model's key; remove it with `gradsim models remove '{key}'`", err=True)


@models.command("remove")
@click.argument("model")
def models_remove(model: str) -> None:
    """Take MODEL out of the registry; its tables stay, and so do its controls. Refused while its runs are in flight.

    \b
    Examples:
      gradsim models remove amd/AMD-OLMo-1B-SFT
    """
    from gradsim_assets.orchestration.model_registry import wrong_keys

    settings = load_settings()
    found = bare_launcher(writes=True)
    known = found.models()
    as_typed = {*known, *wrong_keys(found.instance)}  # a wrong key, or a relative path of an older home
    removed = model if model in as_typed else MODEL_ID(model)
    found.remove_model(removed)
    for control, studied in settings.studied(known).items():
        if studied == removed:
            click.echo(
                f"{control} was its control and stays registered; `gradsim models remove {control}` removes it, too."
            )
        elif control == removed:
            click.echo(f"It was a control of {studied}, whose report shows its figures until it is made again.")
