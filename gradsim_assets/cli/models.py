"""`gradsim models`: which models are registered."""

import json
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli import completion
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
    gradsim.toml names it: `base` of its entry under [[models]]. Of a run with `checkpoints` there, each of them is registered.

    \b
    Examples:
      gradsim models add amd/AMD-OLMo-1B-SFT --controls
      gradsim models add ./my_model
    """
    from gradsim_assets.resources.by_name import resources

    settings, found = load_settings(), launcher(writes=True)
    if controls and trained_id(model) is not None:
        raise InputError(f"{model} is a control itself; give the model that it is one of: {trained_id(model)}.")
    hub, is_run = resources(settings).hub, model in settings.trajectories
    if controls and is_run:
        raise InputError(f"{model} is a run with checkpoints; give the one whose controls are meant ({model}@NAME).")
    wanted = hub.checkpoints(model) if is_run else [model, *(settings.controls_of(model) if controls else ())]
    for one in wanted:
        hub.check(one)  # all of them before any is registered
    for one in wanted:
        click.echo(found.add_model(one))
        if checkpoint := settings.checkpoint_of(one):
            click.echo(f"  step {checkpoint.step} of {checkpoint.run}")
        if one != model and not is_run:
            click.echo(f"  control of {model}: {_CONTROLS[control_kind(one)]}")
        _describe(found, one, settings)
    if controls and settings.base_of(model) is None:
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
    """Show the registered models: partition key, revision (as observed last), how their tables stand.

    Of controls and checkpoints it says whose they are.

    \b
    Examples:
      gradsim models list
      gradsim models list --json
    """
    from gradsim_assets.core.partition_keys import model_slug
    from gradsim_assets.orchestration.model_registry import wrong_keys

    found = launcher()
    versions, states, settings = found.versions(), found.states(), load_settings()
    known = found.models()
    known = settings.ordered(known) if settings.trajectories else known
    studied = settings.studied(known)
    found_models = [
        {
            "model": model,
            "key": model_slug(model),
            "revision": versions.get(model),
            "status": states[model],
            "control_of": studied.get(model),
            "checkpoint_of": checkpoint.run if (checkpoint := settings.checkpoint_of(model)) else None,
            "step": checkpoint.step if checkpoint else None,
        }
        for model in known
    ]
    if as_json:
        click.echo(json.dumps(found_models))
    else:
        optional = [name for name in ("control_of", "step") if any(one[name] is not None for one in found_models)]
        header = ["model", "key", "revision", "status", *optional]
        missing = {"revision": "-", **dict.fromkeys(optional, "")}
        rows = [[str(missing[name] if one[name] is None else one[name]) for name in header] for one in found_models]
        click.echo(columns([name.replace("_", " ") for name in header], rows))
    for key in wrong_keys(found.instance):
        click.echo(f"! {key} is no model's key; remove it with `gradsim models remove '{key}'`", err=True)


@models.command("remove")
@click.argument("model", shell_complete=completion.models)
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
