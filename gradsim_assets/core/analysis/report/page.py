"""The page itself: plots, sentences, provenance and the sample explorer in one HTML file that needs no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.analysis.plots import interactive, pair_matrix, palette, series, wording
from gradsim_assets.core.analysis.report import groups, sentences
from gradsim_assets.core.analysis.report.citation import citation
from gradsim_assets.core.analysis.report.evaluation_table import evaluation_columns, evaluation_rows
from gradsim_assets.core.analysis.report.explored import MOST_SIMILARITIES, explored, listed
from gradsim_assets.core.analysis.report.family_means import family_means
from gradsim_assets.core.analysis.report.headline import headline_sentence, headlines
from gradsim_assets.core.analysis.report.libraries import LIBRARIES, library_source, packed_library, script_hash
from gradsim_assets.core.analysis.report.packing import packed_json
from gradsim_assets.core.analysis.report.setting_results import SettingResults
from gradsim_assets.core.analysis.report.verdict import verdict
from gradsim_assets.core.analysis.report.warnings import warnings

_HERE = Path(__file__).parent

#: In the order in which they need one another.
_SCRIPTS = (
    "packed.js",
    "texts.js",
    "rendered.js",
    "tokens.js",
    "tables.js",
    "figures.js",
    "brushing.js",
    "asked.js",
    "explorer.js",
)


@dataclass(frozen=True)
class _Figure:
    name: str  # of files that it is saved as
    title: str
    help: str
    json: str

    @property
    def height(self) -> int:
        """Its height in pixels, which is kept free for it: what is below must not move when it is drawn."""
        return int(json.loads(self.json)["layout"]["height"])


def render_report(
    model: str,
    revision: str | None,
    parameters: pl.DataFrame | None,
    settings: Mapping[str, SettingResults],
    originals: pl.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    dataset: str | None = None,
    made: date | None = None,
    columns: pl.DataFrame | None = None,
    most_similarities: int = MOST_SIMILARITIES,
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
        notes: what a reader must know of the data beside what the tables say, in sentences.
        dataset: where the originals came from, as it is shown; None where unknown.
        made: the day of the report; None leaves it out.
        columns: `sample_columns`, which samples are filtered by; None where there is none.
        most_similarities: of a setting; where there are more, the page holds some samples and asks its server for others.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    names = {setting: listed(results, most_similarities) for setting, results in settings.items()}
    samples = explored(settings, names, parameters, originals, columns)
    script = "\n".join((_HERE / name).read_text() for name in _SCRIPTS)
    scales = {
        column: series.common_scale(_of_components(settings, column), column) for column in ("accuracy", "agreement")
    }
    matrices = _matrices(settings)
    figures = {setting: _figures(results, scales, matrices[setting]) for setting, results in settings.items()}
    proofs = {setting: _proofs(results) for setting, results in settings.items()}
    sections = {
        setting: _section(setting, results, parameters, figures[setting], proofs[setting])
        for setting, results in settings.items()
    }
    retrievals = {setting: results.retrieval for setting, results in settings.items()}
    controls = {setting: results.controls for setting, results in settings.items()}
    scores = {setting: results.linear_datamodeling_score for setting, results in settings.items()}
    return environment.get_template("page.html.j2").render(
        model=model,
        revision=revision,
        total=sentences.total_parameters(parameters),
        number=wording.number,
        dataset=dataset,
        made=made,
        variants=_variants(retrievals),
        headline=headline_sentence(headlines(retrievals, controls, scores)),
        verdict=verdict(model, retrievals, controls),
        citation=citation(model, revision, dataset, _variants(retrievals), made),
        groups=samples.data["groups"],
        is_part=samples.is_part,
        compared=any(results.variants is not None for results in settings.values()),
        palette=palette,
        sections=sections,
        provenance=_rows(provenance or {}),
        warnings=[*notes, *warnings(parameters, settings, originals)],
        style="\n".join((_HERE / name).read_text() for name in ("style.css", "texts.css")),
        script=script,
        allowed=" ".join(map(script_hash, (script, *map(library_source, LIBRARIES)))),
        libraries={name: packed_library(name) for name in LIBRARIES},
        figures=packed_json(
            {
                f"{setting}-{kind}{n}": json.loads(figure.json)
                for kind, drawn in (("", figures), ("proof", proofs))
                for setting, found in drawn.items()
                for n, figure in enumerate(found)
            }
        ),
        by_token=any(results.token_attribution is not None for results in settings.values()),
        explorer=packed_json({**samples.data, "style": _style()}),
        texts=packed_json(samples.texts),
    )


def _section(
    setting: str,
    results: SettingResults,
    parameters: pl.DataFrame | None,
    figures: Sequence[_Figure],
    proofs: Sequence[_Figure],
) -> dict[str, Any]:
    """What the page has on one setting."""
    worth = evaluation_columns(results.linear_datamodeling_score, results.removal, results.tail_patch)
    controls = of_full_gradient(results.controls)
    return {
        "name": wording.setting_name(setting),
        "sentences": sentences.sentences(results.retrieval, results.greedy, parameters),
        "methods": _methods(results.retrieval),
        "copies": _copies(results.retrieval),
        "by_group": groups.group_tables(results.by_group),
        "families": family_means(results.similarity),
        "controls": [{**row, "name": wording.method_name(row["control"])} for row in controls],
        "worth": {"columns": worth, "rows": evaluation_rows(worth)},
        "figures": figures,
        "meaning": sentences.meaning(
            results.first_order, results.tail_patch, results.linear_datamodeling_score, results.removal
        ),
        "proofs": proofs,
    }


def _variants(retrievals: Mapping[str, pl.DataFrame]) -> str:
    """How many variants were scored; by setting where that is not the same."""
    counts = {wording.setting_name(name): int(frame["variants"].max() or 0) for name, frame in retrievals.items()}  # type: ignore[arg-type]
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} variants"
    return " and ".join(f"{count} {name}" for name, count in counts.items()) + " variants"


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
        "darkened": palette.DARKENED,
        "depth": wording.DEPTH,
        "similarity": wording.SIMILARITY,
        "margins": {"full": wording.MARGIN_FULL, "chosen": wording.MARGIN_CHOSEN},
        "full_gradient": wording.FULL_GRADIENT,
        "best_component": wording.BEST_COMPONENT,
    }


def _of_components(settings: Mapping[str, SettingResults], column: str) -> list[pl.DataFrame]:
    """The tables of every setting that have a figure of each component."""
    return [getattr(results, column) for results in settings.values()]


def _matrices(settings: Mapping[str, SettingResults]) -> dict[str, str | None]:
    """By setting the matrix of all pairs, where they all were compared, on one scale."""
    found = {setting: pair_matrix.pair_matrix(results.similarity) for setting, results in settings.items()}
    scale = pair_matrix.common_scale(found.values())
    return {
        setting: None if matrix is None or scale is None else interactive.pair_matrix(matrix, scale)
        for setting, matrix in found.items()
    }


def _figures(
    results: SettingResults, scales: Mapping[str, tuple[float, float] | None], matrix: str | None
) -> list[_Figure]:
    levels = series.references(results.retrieval)
    per_component = [
        found
        for frame, column, shown in ((results.accuracy, "accuracy", levels), (results.agreement, "agreement", {}))
        for found in (
            (f"{column}_over_depth", interactive.over_depth(frame, column, shown)),
            (f"{column}_bars", interactive.heatmap(frame, column, scales[column])),
            (f"{column}_attention_mlp", interactive.attention_against_mlp(frame, column, shown)),
            (f"{column}_by_parameters", interactive.box_by_size(frame, column)),
        )
    ]
    controls = None if results.controls is None else interactive.controls(results.controls)
    whole = [
        ("retrieval", interactive.retrieval(results.retrieval)),
        ("controls", controls),
        ("pair_matrix", matrix),
    ]
    drawn = [*whole, *per_component]
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
    click = f" {wording.CLICKS[name]}" if name in wording.CLICKS else ""
    title = f"{words.title} {which}".rstrip()
    return _Figure(f"{name} {which}".rstrip().replace(" ", "_"), title, words.help + click, figure)


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
