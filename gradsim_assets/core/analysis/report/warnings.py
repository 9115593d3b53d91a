"""What a reader must know before the figures: few variants, weak rivals, copies, doubtful borders, what was not checked."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.report.sentences import total_parameters
from gradsim_assets.core.analysis.report.setting_results import SettingResults
from gradsim_assets.core.candidates.bm25_candidates import zero_score_places
from gradsim_assets.core.tables import schemas

#: With fewer variants an interval of a share is wider than most differences that anybody looks for: at 29 of them, half of
#: which are found, it spans 0.34.
FEW = 30


def warnings(
    parameters: pl.DataFrame | None, settings: Mapping[str, SettingResults], originals: pl.DataFrame | None
) -> list[str]:
    """Sentences on what limits the figures of a page; arguments as `render_report` has them."""
    said = [
        sentence
        for setting, results in settings.items()
        for sentence in (
            *_few(results, wording.setting_name(setting)),
            *_copies(results.retrieval, wording.setting_name(setting)),
            *_borders(results, wording.setting_name(setting)),
            *_unchecked(results, wording.setting_name(setting)),
            *_rivals(results, wording.setting_name(setting), originals),
            *_texts(results, wording.setting_name(setting), originals),
        )
    ]
    if total_parameters(parameters) is None:
        said.append(
            "The parameter counts of the components are unknown (no config.json of the model): plots by size are left "
            "out, greedy curves run over the number of components, and ties go by model order alone."
        )
    return list(dict.fromkeys(said))  # settings share their candidates


def quantised_base(products: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of a base in few bits, from the provenance of products."""
    found = [entry for entry in products if entry.get("quantised")]
    said = []
    for how in dict.fromkeys(entry["quantised"] for entry in found):
        errors = [
            e for entry in found if entry["quantised"] == how and (e := entry.get("dequantised_error")) is not None
        ]
        measured = f" They are off from float64 by at most {max(errors):.0e} of a component's length." if errors else ""
        said.append(
            f"The base of the adapter is in {how}: gradients are those of the adapter over the weights that these bits stand for, with "
            f"activations that are not quantised, and say nothing of the base before it was quantised.{measured}"
        )
    return said


def _few(results: SettingResults, setting: str) -> list[str]:
    variants = int(results.retrieval["variants"].max() or 0)  # type: ignore[arg-type]  # whole numbers
    if variants >= FEW:
        return []
    return [
        f"Only {variants} {setting} variants were scored: with fewer than {FEW} most differences between methods may be "
        "chance, whatever the figures say; go by the intervals."
    ]


def _copies(retrieval: pl.DataFrame, setting: str) -> list[str]:
    row = retrieval.filter(method=schemas.FULL_GRADIENT).rows(named=True)
    copies = row[0]["variants_verbatim"] if row else None
    if not copies:
        return []
    return [
        f"{copies} of {copies + row[0]['variants_not_verbatim']} {setting} answers are verbatim copies of their originals', "
        "which are easier to find: read the accuracy on copies and on other answers apart."
    ]


def _borders(results: SettingResults, setting: str) -> list[str]:
    if not results.prompt_no_prefix:
        return []
    return [
        f"Of {results.prompt_no_prefix} samples behind the {setting} setting (originals and "
        "variants, once for every shard) the conversation does not begin with its prompt, or the chat template "
        "opens no answers or changes their texts: the loss is on what follows the tokens that both begin with, and "
        "that is not just the answer."
    ]


def _unchecked(results: SettingResults, setting: str) -> list[str]:
    if results.checked_pairs != 0:
        return []
    return [
        f"No product of the {setting} setting was recomputed by plain autograd, so that nothing shows here that the "
        "gradients are those of this model; compute them again, or find out from the run's log why the check was left out."
    ]


def _rivals(results: SettingResults, setting: str, originals: pl.DataFrame | None) -> list[str]:
    """Of candidates that were chosen although BM25 knows nothing of them."""
    if results.bm25 is None:
        return [f"There are no BM25 scores for the {setting} setting: ranks are the order of the candidates."]
    # Without the originals nobody knows whether all of them are candidates, which is no choice.
    zero = zero_score_places(results.bm25, results.bm25.height + 1 if originals is None else originals.height)
    if zero.is_empty():
        return []
    variants = f"{zero['variant_id'].n_unique()} of {results.bm25['variant_id'].n_unique()}"
    return [
        f"BM25 gives {zero.height} candidates of {variants} variants a score of 0 (no token in common): they are no near "
        "rivals. data.zero_scores says who they are, by default a seeded draw."
    ]


def _texts(results: SettingResults, setting: str, originals: pl.DataFrame | None) -> list[str]:
    if originals is not None and results.variants is not None:
        return []
    return [f"Not all texts of the {setting} setting are at hand."]
