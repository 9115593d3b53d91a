"""What the sample explorer is given of samples: all of them on the page, or where they are too many some, and others when asked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.report import explorer, groups, tokens
from gradsim_assets.core.analysis.report.setting_results import SettingResults
from gradsim_assets.core.similarity.pair_products import read_pairs
from gradsim_assets.core.tables.schemas import FULL_GRADIENT

#: Similarities that a page holds of one setting, of 2 bytes each: more would make it slow to open. The 988 variants of LIMA with
#: all originals as candidates have a quarter of it in a model of 113 components.
MOST_SIMILARITIES = 4_000_000


@dataclass(frozen=True)
class Explored:
    """Samples as the page's script reads them.

    Attributes:
        data: `settings` by name, `tokens`, and of `sample_columns` what `groups.sample_columns` tells.
        texts: by id and side, as `explorer.texts` has them.
    """

    data: dict[str, Any]
    texts: dict[str, Any]

    @property
    def is_part(self) -> bool:
        """Whether there are samples besides these."""
        return any(len(one["variants"]) < one["of"] for one in self.data["settings"].values())


def explored(
    settings: Mapping[str, SettingResults],
    names: Mapping[str, Collection[str]],
    parameters: pl.DataFrame | None,
    originals: pl.DataFrame | None,
    columns: pl.DataFrame | None,
) -> Explored:
    """The variants that are named of every setting, in the order of its tables."""
    shown = {setting: results.of(names[setting]) for setting, results in settings.items()}
    found = {
        setting: {
            **_explorer(shown[setting], parameters),
            "of": len(_variants(results)),
            "products": results.products,
        }
        for setting, results in settings.items()
    }
    texts = _texts(found, shown, originals)
    known = groups.sample_columns(columns, {name for part in found.values() for name in part["variants"]})
    return Explored({"settings": found, "tokens": _tokens(shown, texts), **known}, texts)


def listed(results: SettingResults, most: int = MOST_SIMILARITIES) -> list[str]:
    """The variants that a page holds, in the order of the table: all, or those that the full gradient decides wrongly and behind them
    those where it diverges most from the best component, as many as have no more than `most` similarities."""
    similarity = results.similarity.lazy()
    rows, components = similarity.select(pl.len(), pl.col("component").n_unique()).collect().row(0)
    if rows <= most:
        return _variants(results).to_list()
    full = similarity.filter(component=FULL_GRADIENT)
    candidates, _, values = read_pairs(full, "gradient_similarity", ["similarity"])
    names = np.asarray(candidates.variants, dtype=object)
    ranks = candidates.ranks(values[0])
    first = results.self_similarity.group_by("variant_id").first().select("variant_id", "divergence_rank")
    far = dict(first.iter_rows())
    divergence = np.array([np.inf if far.get(name) is None else far[name] for name in names], dtype=float)
    order = np.lexsort((divergence, ranks == 1))
    shown = np.minimum(candidates.counts[order], explorer.MOST_CANDIDATES)
    kept = order[np.cumsum(shown) * components <= most]
    return list(names[np.sort(kept)])


def matching(wanted: str, results: SettingResults, originals: pl.DataFrame | None, most: int) -> list[str]:
    """At most so many variants whose id, text or original's text holds what is wanted, in any case of letters; that with exactly this
    id comes first, and others in the order of the table."""
    names = _variants(results)
    text = wanted.lower()
    inside = [frame for frame in (results.variants, originals) if frame is not None]
    holding = {name for frame in inside for name in frame.filter(_holds(text))["id"]}
    exact = [name for name in names if name.lower() == text]
    rest = [name for name in names if (text in name.lower() or name in holding) and name not in exact]
    return [*exact, *rest][:most]


def _variants(results: SettingResults) -> pl.Series:
    found = results.similarity.lazy().select(pl.col("variant_id").unique(maintain_order=True))
    return found.collect()["variant_id"]


def _holds(text: str) -> pl.Expr:
    content = pl.element().struct.field("content").str.to_lowercase()
    return pl.col("messages").list.eval(content.str.contains(text, literal=True)).list.any()


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


def _texts(
    found: Mapping[str, dict[str, Any]], settings: Mapping[str, SettingResults], originals: pl.DataFrame | None
) -> dict[str, Any]:
    shown = {sample_id for part in found.values() for sample_id in part["originals"]}
    return {
        "originals": explorer.texts(originals, shown),
        "variants": {
            setting: explorer.texts(results.variants, set(found[setting]["variants"]))
            for setting, results in settings.items()
        },
    }


def _tokens(settings: Mapping[str, SettingResults], texts: Mapping[str, Any]) -> dict[str, Any]:
    """By setting what tokens make up of products, where that was asked for."""
    return {
        setting: tokens.tokens(results.token_attribution, texts["variants"][setting], texts["originals"])
        for setting, results in settings.items()
        if results.token_attribution is not None
    }
