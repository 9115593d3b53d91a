"""`gradsim report`: where the report of a model is, and its headline figures."""

import json
import urllib.request

import click

from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.cli.summary import print_summary, read_summary
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.models.controls import trained_id
from gradsim_assets.core.partition_keys import model_id_of, model_slug


@click.command()
@click.argument("model", type=MODEL_ID, required=False)
@click.option(
    "--open", "opens", is_flag=True, help="Open it in a browser: from `gradsim ui`, if that runs, else the file."
)
@click.option("--path", "path_only", is_flag=True, help="Print the path of the page and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the headline figures as JSON.")
def report(model: str | None, opens: bool, path_only: bool, as_json: bool) -> None:
    """Show the headline figures of a model and where its report is.

    Without MODEL it is the one model that has a report; controls are not counted. Nothing is computed: `gradsim run MODEL`
    makes reports.

    \b
    Examples:
      gradsim report                      figures, path and address
      gradsim report demo --open          the page in a browser
      xdg-open "$(gradsim report --path)"
      gradsim report --json | jq .headline
    """
    settings = load_settings()
    chosen = model or _only_one(settings)
    page = Home(settings.home).report(model_slug(chosen)) / "index.html"
    if not page.is_file():
        raise InputError(f"{chosen} has no report yet; `gradsim run {chosen}` makes it.")
    if path_only:
        click.echo(page)
    elif as_json:
        click.echo(json.dumps(read_summary(settings, chosen)))
    else:
        print_summary(settings, chosen)
    if opens:
        address = served_address(settings, chosen)
        # Told on stderr: what is printed stays what was asked for.
        click.echo(f"opening {address or page}", err=True)
        click.launch(address or str(page))


def _only_one(settings: Settings) -> str:
    """The one model that has a report and is no control; raises InputError where there are none or several."""
    having = [model_id_of(slug) for slug in Home(settings.home).reported]
    controls = {*settings.studied(having), *(one for one in having if trained_id(one))}
    models = [one for one in having if one not in controls]
    if len(models) == 1:
        return models[0]
    if not models:
        raise InputError(
            "no model has a report yet; `gradsim run MODEL` makes it, and `gradsim demo` one on the embedded demo."
        )
    raise InputError(f"{len(models)} models have reports; say which: {', '.join(models)}.")


def served_address(settings: Settings, model_id: str) -> str | None:
    """The address of a report where `gradsim ui` serves this very home now; None where nothing does."""
    from gradsim_assets.defs.web_links import report_address

    if not settings.web:
        return None
    try:
        with urllib.request.urlopen(f"{settings.web}/health", timeout=2) as answer:
            same = json.load(answer).get("home") == str(settings.home)
    except (OSError, ValueError):
        return None
    return report_address(settings.web, model_slug(model_id)) if same else None
