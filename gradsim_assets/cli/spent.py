"""`gradsim spent`: the compute that went into a home so far."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gradsim_assets.cli.columns import columns
from gradsim_assets.cli.instance import bare_launcher
from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.cli.status import ALL_MODELS

if TYPE_CHECKING:
    from gradsim_assets.orchestration.spent import Spent


@click.command()
@click.argument("model", type=MODEL_ID, required=False)
@click.option(
    "--steps", is_flag=True, help="Every step: one asset, or several that are made together, or their checks."
)
@click.option("--json", "as_json", is_flag=True, help="Every step as JSON on one line, with its assets and GPUs.")
def spent(model: str | None, steps: bool, as_json: bool) -> None:
    """Show what was computed so far and what it took: seconds and GPU hours, by model and stage.

    Counted is every run that Dagster remembers, failed and repeated ones too. GPU hours are those of steps that had a model on a
    GPU; steps of runs before this was written down count none. Traces are no runs and are left out.

    \b
    Examples:
      gradsim spent
      gradsim spent amd/AMD-OLMo-1B-SFT --steps
      gradsim spent amd/AMD-OLMo-1B-SFT --json
    """
    from gradsim_assets.orchestration.spent import spent as all_spent

    launcher = bare_launcher()
    found = all_spent(launcher.instance, launcher.repository.asset_graph)
    found = [one for one in found if model is None or one.model == model]
    click.echo(json.dumps([_described(one) for one in found]) if as_json else _table(found, steps))


def _described(one: "Spent") -> dict[str, object]:
    """A step for programs."""
    return {
        "model": one.model,
        "stage": one.stage,
        "step": one.step,
        "assets": sorted(one.assets),
        "times": one.times,
        "failures": one.failures,
        "unknown": one.unknown,
        "seconds": one.seconds,
        "failed_seconds": one.failed_seconds,
        "gpu_hours": one.gpu_hours,
        "gpus": {name: seconds / 3600 for name, seconds in sorted(one.gpus.items())},
    }


def _table(found: "Sequence[Spent]", steps: bool) -> str:
    """The stages of every model under each other, or their steps, and the sum."""
    if not found:
        return "Nothing was computed yet."
    groups: dict[tuple[str, ...], list[Spent]] = {}
    for one in found:
        place = (one.model or ALL_MODELS, one.stage, *([one.step] if steps else []))
        groups.setdefault(place, []).append(one)
    names = ["model", "stage", *(["step"] if steps else [])]
    rows: list[list[str | float]] = [[*place, *_figures(ones)] for place, ones in groups.items()]
    rows.append(["sum", *[""] * (len(names) - 1), *_figures(found)])
    text = columns([*names, "steps", "failed", "seconds", "of it failed", "GPU hours"], rows)
    if unknown := sum(one.unknown for one in found):
        text += f"\n{unknown} of these steps had no end (killed), and what they took is not known."
    return text


def _figures(ones: "Sequence[Spent]") -> list[float]:
    return [
        sum(one.times for one in ones),
        sum(one.failures for one in ones),
        round(sum(one.seconds for one in ones), 1),
        round(sum(one.failed_seconds for one in ones), 1),
        round(sum(one.gpu_hours for one in ones), 3),
    ]
