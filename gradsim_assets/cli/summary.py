"""The headline figures on the terminal, from the summary beside the report."""

import json
from collections.abc import Iterable
from typing import Any

import click

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.report.headline import headline_sentence
from gradsim_assets.core.candidates.chosen_candidates import among_an_index
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import RETRIEVAL
from gradsim_assets.core.tables.storage import Partition, Tables


def read_summary(settings: Settings, model_id: str) -> dict[str, Any]:
    """The headline figures of a model's report, as `summary.json` has them."""
    folder = Home(settings.home).report(model_slug(model_id))
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def _among(settings: Settings, model_id: str, shown: Iterable[str]) -> str:
    """What one must know of the candidates that figures are among; nothing where BM25 has chosen them."""
    tables, place = Tables(settings.tables), Partition(model_slug(model_id))
    there = [[RETRIEVAL.name, setting] for setting in shown if tables.exists([RETRIEVAL.name, setting], place)]
    return among_an_index(tables.provenance(key, place).get("candidates") for key in there)


def print_summary(settings: Settings, model_id: str) -> None:
    """The headline, accuracy and MRR per setting and method, and where the report is."""
    summary = read_summary(settings, model_id)
    missing = f" ({summary['missing']} missing)" if summary.get("missing") else ""
    click.echo(
        f"\n{summary['model']} @ {summary['revision']}: {summary['samples']} samples{missing}, "
        f"{summary['parameters'] or '?'} parameters"
    )
    if "headline" in summary:  # not in those of older reports
        click.echo(f"\n{headline_sentence(summary['headline'])}")
    for sentence in summary["verdict"]:
        click.echo(f"\n{sentence}")
    if said := _among(settings, model_id, summary["settings"]):
        click.echo(f"\n{said}")
    for setting, methods in summary["settings"].items():
        click.echo(f"\n  {setting:<32} accuracy    MRR")
        for method, figures in methods.items():
            name = f"{method} ({figures['component']})" if "component" in figures else method
            mrr = f"{figures['mrr']:6.3f}" if figures.get("mrr") is not None else ""
            accuracy = figures.get("accuracy")
            click.echo(f"  {name:<32} {'' if accuracy is None else f'{accuracy:8.3f}'} {mrr}")
        for control, figures in summary["controls"].get(setting, {}).items():
            click.echo(f"  {control + ' control':<32} {figures['accuracy']:8.3f} {figures['mrr']:6.3f}")
    page = Home(settings.home).report(model_slug(model_id)) / "index.html"
    click.echo(f"\nReport: {page}  (`gradsim report {model_id} --open`)")
