"""The page itself: plots, sentences, provenance and the sample explorer in one HTML file that needs no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.analysis.plots import interactive, palette, series, wording
from gradsim_assets.core.analysis.report import explorer, sentences
from gradsim_assets.core.analysis.report.verdict import verdict
from gradsim_assets.core.candidates.bm25_candidates import zero_score_places
from gradsim_assets.core.embedded_json import embedded_json

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
    variants: pl.DataFrame | None = None  # id, messages, text_overlap, verbatim
    first_order: pl.DataFrame | None = None
    tail_patch: pl.DataFrame | None = None
    controls: pl.DataFrame | None = None  # control_comparison
    linear_datamodeling_score: pl.DataFrame | None = None
    removal: pl.DataFrame | None = None
    prompt_no_prefix: int = 0  # samples of which the prompt is not what the whole begins with; once for every shard


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
    notes: Sequence[str] = (),
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
        notes: what else a reader must know of the data, in sentences.
    """
    import plotly.offline
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    explored = {setting: _explorer(results, parameters) for setting, results in settings.items()}
    figures = {setting: _figures(results) for setting, results in settings.items()}
    proofs = {setting: _proofs(results) for setting, results in settings.items()}
    sections = {
        setting: {
            "name": wording.setting_name(setting),
            "sentences": sentences.sentences(results.retrieval, results.greedy, parameters),
            "methods": _methods(results.retrieval),
            "copies": _copies(results.retrieval),
            "controls": [
                {**row, "name": wording.method_name(row["control"])} for row in of_full_gradient(results.controls)
            ],
            "figures": figures[setting],
            "meaning": sentences.meaning(
                results.first_order, results.tail_patch, results.linear_datamodeling_score, results.removal
            ),
            "proofs": proofs[setting],
        }
        for setting, results in settings.items()
    }
    return environment.get_template("page.html.j2").render(
        model=model,
        revision=revision,
        total=sentences.total_parameters(parameters),
        number=wording.number,
        verdict=verdict(
            model,
            {setting: results.retrieval for setting, results in settings.items()},
            {setting: results.controls for setting, results in settings.items()},
        ),
        palette=palette,
        sections=sections,
        provenance=_rows(provenance or {}),
        notes=[*notes, *_notes(parameters, settings, originals)],
        style=(_HERE / "style.css").read_text(),
        script=(_HERE / "explorer.js").read_text(),
        plotly=plotly.offline.get_plotlyjs(),
        figures=embedded_json(
            {
                f"{setting}-{kind}{n}": json.loads(figure.json)
                for kind, drawn in (("", figures), ("proof", proofs))
                for setting, found in drawn.items()
                for n, figure in enumerate(found)
            }
        ),
        explorer=embedded_json(
            {"settings": explored, "texts": _texts(explored, settings, originals), "style": _style()}
        ),
    )


def _explorer(results: SettingResults, parameters: pl.DataFrame | None) -> dict[str, Any]:
    best = results.retrieval.filter(method="best_component")["component"].to_list()
    return explorer.explorer(
        results.similarity,
        results.bm25,
        results.self_similarity,
        best[0] if best else None,
        parameters,
        results.variants,
    )


def _style() -> dict[str, Any]:
    """What the explorer's plots look like and say: as all others do."""
    return {
        "families": {
            family: {"name": wording.FAMILY_NAMES[family], "colour": style.colour, "symbol": style.symbol}
            for family, style in palette.FAMILY_STYLES.items()
        },
        "cycle": palette.CYCLE,
        "ink": palette.INK,
        "axis": palette.AXIS,
        "grid": palette.GRID,
        "depth": wording.DEPTH,
        "similarity": wording.SIMILARITY,
        "full_gradient": wording.FULL_GRADIENT,
        "best_component": wording.BEST_COMPONENT,
    }


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
    per_component = [
        found
        for frame, column, shown in ((results.accuracy, "accuracy", levels), (results.agreement, "agreement", {}))
        for found in (
            (f"{column}_over_depth", interactive.over_depth(frame, column, shown)),
            (f"{column}_bars", interactive.heatmap(frame, column)),
            (f"{column}_attention_mlp", interactive.attention_against_mlp(frame, column, shown)),
            (f"{column}_by_parameters", interactive.box_by_size(frame, column)),
        )
    ]
    controls = None if results.controls is None else interactive.controls(results.controls)
    drawn = [("retrieval", interactive.retrieval(results.retrieval)), ("controls", controls), *per_component]
    figures = [_figure(name, figure) for name, figure in drawn if figure is not None]
    for criterion in ("agreement", "accuracy"):
        greedy = interactive.greedy(results.greedy, results.retrieval, criterion)
        if greedy is not None:
            figures.append(_figure("greedy_selection", greedy, wording.by_criterion(criterion)))
    return figures


def _proofs(results: SettingResults) -> list[_Figure]:
    """What shows what the scores mean, as far as it was evaluated."""
    lds = results.linear_datamodeling_score
    drawn = {
        "linear_datamodeling_score": None if lds is None else interactive.linear_datamodeling_score(lds),
        "lds_over_depth": None if lds is None else interactive.lds_over_depth(lds),
        "removal": None if results.removal is None else interactive.removal(results.removal),
        "first_order": None if results.first_order is None else interactive.first_order(results.first_order),
        "tail_patch": None if results.tail_patch is None else interactive.tail_patch(results.tail_patch),
    }
    return [_figure(name, figure) for name, figure in drawn.items() if figure is not None]


def _figure(name: str, figure: str, which: str = "") -> _Figure:
    words = wording.PLOTS[name]
    click = f" {wording.CLICK}" if name.endswith("_bars") else ""
    return _Figure(f"{words.title} {which}".rstrip(), words.help + click, figure)


def _methods(retrieval: pl.DataFrame) -> list[dict[str, Any]]:
    return [{**row, "name": wording.method_name(row["method"])} for row in retrieval.rows(named=True)]


def _copies(retrieval: pl.DataFrame) -> tuple[int, int] | None:
    """Numbers of variants whose answers are copies and of the others; None where there are none or nobody knows."""
    known = retrieval.select("variants_verbatim", "variants_not_verbatim").row(0)
    return known if known[0] else None


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
        else:
            notes += _without_scores(results.bm25, originals)
        if originals is None or results.variants is None:
            notes.append(f"Not all texts of the {wording.setting_name(setting)} setting are at hand.")
        if results.prompt_no_prefix:
            notes.append(
                f"Of {results.prompt_no_prefix} samples behind the {wording.setting_name(setting)} setting (originals and "
                "variants, once for every shard) the conversation does not begin with its prompt, or the chat template "
                "opens no answers or changes their texts: the loss is on what follows the tokens that both begin with, and "
                "that is not just the answer."
            )
    return list(dict.fromkeys(notes))  # settings share their candidates


def _without_scores(bm25: pl.DataFrame, originals: pl.DataFrame | None) -> list[str]:
    """A warning of candidates that were chosen although BM25 knows nothing of them."""
    # Without the originals nobody knows whether all of them are candidates, which is no choice.
    zero = zero_score_places(bm25, bm25.height + 1 if originals is None else originals.height)
    if zero.is_empty():
        return []
    variants = f"{zero['variant_id'].n_unique()} of {bm25['variant_id'].n_unique()}"
    return [
        f"BM25 gives {zero.height} candidates of {variants} variants a score of 0 (no token in common): they are no near "
        "rivals. data.zero_scores says who they are, by default a seeded draw."
    ]
