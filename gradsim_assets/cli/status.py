"""`gradsim status`: how far every model is, stage by stage."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import bare_launcher
from gradsim_assets.configuration import load_settings

if TYPE_CHECKING:
    from gradsim_assets.runs.launcher import Launcher

#: What stands in the place of a model where a table is the same for all of them.
ALL_MODELS = "(all models)"


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew whenever it changes, until nothing runs or waits any more.")
@click.option("--json", "as_json", is_flag=True, help="JSON on one line instead of a table.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
def status(watch: bool, as_json: bool, interval: float) -> None:
    """Show how many partitions of every model and stage are done, stale, failed, running or missing.

    Only looks: nothing is registered, observed, computed or ended by it. Files that are lost count as missing.

    \b
    Examples:
      gradsim status --watch
      gradsim status --json
    """
    settings = load_settings()
    launcher = bare_launcher()
    shown = None
    try:
        while True:
            # Asked before the look: what ends in between is then looked at once more.
            goes_on = watch and launcher.is_at_work()
            text = _text(launcher, as_json)
            if text != shown:
                _show(text, again=shown is not None and not as_json)
                shown = text
            if not goes_on:
                break
            time.sleep(interval)
    except KeyboardInterrupt:
        return
    known = launcher.models()
    for model in settings.configured:
        if model not in known:
            click.echo(f"! {model} under [[models]] is not registered yet; `gradsim run {model}` does it", err=True)


def _show(text: str, again: bool) -> None:
    """On a terminal in the place of what was shown before; in a pipe behind it."""
    if again:
        click.clear() if sys.stdout.isatty() else click.echo()
    click.echo(text)


def _text(launcher: "Launcher", as_json: bool) -> str:
    from gradsim_assets.orchestration.standings import STATES

    counted = list(by_stage(launcher))
    if as_json:
        return json.dumps([{"model": model, "stage": stage, **counts} for model, stage, counts in counted])
    studied = load_settings().studied(launcher.models())
    rows: list[list[str | int]] = [
        [_named(model, studied), stage, *(counts[state] for state in STATES)] for model, stage, counts in counted
    ]
    return columns(["model", "stage", *STATES], rows)


def _named(model: str | None, studied: Mapping[str, str]) -> str:
    """A model as it stands in the table, with the one that it is a control of."""
    if model is None:
        return ALL_MODELS
    return f"{model} (control of {studied[model]})" if model in studied else model


def by_stage(launcher: "Launcher") -> Iterator[tuple[str | None, str, dict[str, int]]]:
    """(model, stage, partitions by state) for every model with its stages; None for what is the same for all models."""
    from gradsim_assets.core.partition_keys import model_id_of
    from gradsim_assets.defs.stages import STAGES
    from gradsim_assets.orchestration.standings import STATES

    graph = launcher.repository.asset_graph
    stages = {key: number for number, stage in enumerate(STAGES) for key in stage.selection.resolve(graph)}
    counts: dict[tuple[str, int], Counter[str]] = {}  # "" stands before all models
    for one in launcher.standings():
        counts.setdefault((one.place.model or "", stages[one.table]), Counter())[one.shown] += 1
    for (model, stage), found in sorted(counts.items()):
        yield model_id_of(model) if model else None, STAGES[stage].job, {state: found[state] for state in STATES}
