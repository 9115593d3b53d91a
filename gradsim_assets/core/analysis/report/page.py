"""The page itself: plots, sentences, provenance and the sample explorer in one HTML file that needs no network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import interactive, series, wording
from gradsim_assets.core.analysis.report import explorer, sentences

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class SettingResults:
    """One setting's tables, as their schemas describe them; None for those that do not exist."""

    similarity: pl.DataFrame | pl.LazyFrame  # gradient_similarity
    accuracy: pl.DataFrame
    agreement: pl.DataFrame
    greedy: pl.DataFrame
    self_similarity: pl.DataFrame
    retrieval: pl.DataFrame
    bm25: pl.DataFrame | None = None
    variants: pl.DataFrame | None = None  # id, messages


@dataclass(frozen=True)
class _Figure:
    title: str
    help: str
    json: str


def render_report(
    model: str,
    revision: str | None,
    parameters: pl.DataFrame | None,
    settings: Mapping[str, SettingResults],
    originals: pl.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """The report as one HTML document.

    Args:
        model: the model's id, as it is shown.
        revision: resolved revision of the model, None where unknown.
        parameters: `parameters_per_component`; None or null sizes leave out what needs sizes, and the page says so.
        settings: results by setting, one or both.
        originals: id, messages; without texts the explorer shows similarities only, and says so.
        provenance: what led here (dataset fingerprint, code version, configuration, run ids, ...); nested values are
            shown as JSON.
    """
    import plotly.offline
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    explored = {setting: _explorer(results, parameters) for setting, results in settings.items()}
    figures = {setting: _figures(results) for setting, results in settings.items()}
    sections = {
        setting: {
            "name": wording.setting_name(setting),
            "sentences": sentences.sentences(results.retrieval, results.greedy, parameters),
            "methods": _methods(results.retrieval),
            "figures": figures[setting],
        }
        for setting, results in settings.items()
    }
    return environment.get_template("page.html.j2").render(
        model=model,
        revision=revision,
        total=sentences.total_parameters(parameters),
        number=wording.number,
        sections=sections,
        provenance=_rows(provenance or {}),
        notes=_notes(parameters, settings, originals),
        style=(_HERE / "style.css").read_text(),
        script=(_HERE / "explorer.js").read_text(),
        plotly=plotly.offline.get_plotlyjs(),
        figures=_embed(
            {
                f"{setting}-{n}": json.loads(figure.json)
                for setting, found in figures.items()
                for n, figure in enumerate(found)
            }
        ),
        explorer=_embed({"settings": explored, "texts": _texts(explored, settings, originals)}),
    )


def _embed(value: Any) -> str:
    # Inside a script element only "<" could end the element; JSON may write it as an escape.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _explorer(results: SettingResults, parameters: pl.DataFrame | None) -> dict[str, Any]:
    best = results.retrieval.filter(method="best_component")["component"].to_list()
    return explorer.explorer(
        results.similarity, results.bm25, results.self_similarity, best[0] if best else None, parameters
    )


def _texts(
    explored: Mapping[str, dict[str, Any]], settings: Mapping[str, SettingResults], originals: pl.DataFrame | None
) -> dict[str, Any]:
    shown = {sample_id for part in explored.values() for sample_id in part["originals"]}
    return {
        "originals": explorer.texts(originals, shown),
        "variants": {
            setting: explorer.texts(results.variants, set(explored[setting]["variants"]))
            for setting, results in settings.items()
        },
    }


def _figures(results: SettingResults) -> list[_Figure]:
    levels = series.references(results.retrieval)
    accuracy, agreement = results.accuracy, results.agreement
    candidates = [
        ("Finding the own original", wording.RETRIEVAL_HELP, interactive.retrieval(results.retrieval)),
        (
            "Accuracy over depth",
            wording.ACCURACY_HELP,
            interactive.over_depth(accuracy, "accuracy", wording.ACCURACY, levels),
        ),
        (
            "Accuracy of every component",
            "Click a cell to open that component in the sample explorer.",
            interactive.heatmap(accuracy, "accuracy", "accuracy"),
        ),
        (
            "Accuracy: attention against MLP",
            wording.BAND_HELP,
            interactive.attention_against_mlp(accuracy, "accuracy", wording.ACCURACY, levels),
        ),
        (
            "Accuracy by number of parameters",
            wording.BOX_HELP,
            interactive.box_by_size(accuracy, "accuracy", wording.ACCURACY),
        ),
        (
            "Agreement with the full gradient over depth",
            wording.AGREEMENT_HELP,
            interactive.over_depth(agreement, "agreement", wording.AGREEMENT, {}),
        ),
        (
            "Agreement of every component",
            "Click a cell to open that component in the sample explorer.",
            interactive.heatmap(agreement, "agreement", "agreement ρ"),
        ),
        (
            "Agreement by number of parameters",
            wording.BOX_HELP,
            interactive.box_by_size(agreement, "agreement", wording.AGREEMENT),
        ),
        (
            "Greedy selection by agreement",
            wording.GREEDY_HELP,
            interactive.greedy(results.greedy, results.retrieval, "agreement"),
        ),
        (
            "Greedy selection by accuracy",
            wording.GREEDY_HELP,
            interactive.greedy(results.greedy, results.retrieval, "accuracy"),
        ),
    ]
    return [_Figure(title, help, figure) for title, help, figure in candidates if figure is not None]


def _methods(retrieval: pl.DataFrame) -> list[dict[str, Any]]:
    return [{**row, "name": wording.method_name(row["method"])} for row in retrieval.rows(named=True)]


def _rows(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, default=str))
        for key, value in provenance.items()
    ]


def _notes(
    parameters: pl.DataFrame | None, settings: Mapping[str, SettingResults], originals: pl.DataFrame | None
) -> list[str]:
    notes = []
    if sentences.total_parameters(parameters) is None:
        notes.append(
            "The parameter counts of the components are unknown (no config.json of the model): plots by size are left "
            "out, greedy curves run over the number of components, and ties go by model order alone."
        )
    for setting, results in settings.items():
        if results.bm25 is None:
            notes.append(
                f"There are no BM25 scores for the {wording.setting_name(setting)} setting: ranks are the order of the "
                "candidates."
            )
        if originals is None or results.variants is None:
            notes.append(f"Not all texts of the {wording.setting_name(setting)} setting are at hand.")
    return notes
