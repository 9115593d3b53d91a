"""The data behind the sample explorer, small enough to be opened in a moment."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.report.packing import pack
from gradsim_assets.core.components import component_columns, family
from gradsim_assets.core.samples import Message, samples_of
from gradsim_assets.core.similarity.pair_products import Candidates, read_pairs
from gradsim_assets.core.tables import schemas

#: Candidates shown per variant; with more (exhaustive retrieval) the own original and the most similar ones stay.
MOST_CANDIDATES = 10

#: Cosines are stored as 16-bit integers: steps of 3e-5, finer than the four digits shown. The lowest value is "none".
SCALE = 32767
NONE = -32768


def explorer(
    similarity: pl.DataFrame | pl.LazyFrame,
    bm25: pl.DataFrame | None,
    self_similarity: pl.DataFrame,
    best_component: str | None,
    parameters: pl.DataFrame | None,
    variants: pl.DataFrame | None,
) -> dict[str, Any]:
    """One setting's samples, candidates and similarities; of `variants`, what their answers share with the originals'.

    Ranks come from the exact similarities, not from the rounded ones that are shown.
    """
    candidates, names, values = read_pairs(similarity, "gradient_similarity", ["similarity"])
    # The full gradient goes last, whatever rows the table's first pair lacks.
    order = sorted(range(len(names)), key=lambda i: names[i] == schemas.FULL_GRADIENT)
    names, values = [names[i] for i in order], values[order]
    full = values[-1] if names and names[-1] == schemas.FULL_GRADIENT else np.full(values.shape[1], np.nan)
    ranks = np.array([candidates.ranks(row) for row in values]).reshape(len(names), len(candidates.variants))
    shown = _shown(candidates, full)
    originals, original = np.unique(candidates.originals[shown].astype(str), return_inverse=True)
    scores, places = _bm25(candidates, bm25)
    divergence = self_similarity.group_by("variant_id", maintain_order=True).first()
    by_variant = dict(divergence.select("variant_id", "divergence_rank").iter_rows())
    sizes = dict(divergence.select("variant_id", "divergence").iter_rows())
    components = component_columns([name for name in names if name != schemas.FULL_GRADIENT], parameters)
    return {
        "variants": list(candidates.variants),
        "originals": originals.tolist(),
        "components": [{**row, "family": family(row["component_type"])} for row in components.rows(named=True)],
        "best": names.index(best_component) if best_component in names else -1,
        "counts": candidates.counts.tolist(),
        "starts": np.searchsorted(candidates.variant[shown], np.arange(len(candidates.variants) + 1)).tolist(),
        "original": pack(original.astype(np.uint32)),
        "bm25_rank": pack(places[shown].astype(np.uint32)),
        "bm25_score": None if bm25 is None else pack(scores[shown].astype(np.float32)),
        "similarity": pack(_quantise(values[:, shown].T)),
        "ranks": pack(np.where(np.isinf(ranks), 0, ranks).T.astype(np.uint32)),
        "divergence": [sizes.get(name) for name in candidates.variants],
        "divergence_rank": [by_variant.get(name) for name in candidates.variants],
        "overlap": _overlap(candidates.variants, variants),
        "verbatim": _verbatim(candidates.variants, variants),
    }


def _overlap(names: Sequence[str], variants: pl.DataFrame | None) -> list[str | None]:
    """By variant how much of its original's answer its own one repeats, in words; None where that is not known."""
    rows = [] if variants is None else variants.select("id", "text_overlap", "verbatim").drop_nulls().rows()
    said = {name: "verbatim copy" if copied else f"chrF {overlap:.0f} of 100" for name, overlap, copied in rows}
    return [f"answer against the original's: {said[name]}" if name in said else None for name in names]


def _verbatim(names: Sequence[str], variants: pl.DataFrame | None) -> list[bool | None]:
    """By variant whether its answer is a copy of the original's; None where that is not known."""
    known = {} if variants is None else dict(variants.select("id", "verbatim").iter_rows())
    return [known.get(name) for name in names]


def _quantise(values: np.ndarray) -> np.ndarray:
    rounded = np.round(np.clip(np.nan_to_num(values), -1, 1) * SCALE)
    return np.where(np.isnan(values), NONE, rounded).astype(np.int16)


def _shown(candidates: Candidates, full: np.ndarray) -> np.ndarray:
    # Indices of the pairs that the page holds, in the order of the table.
    own = candidates.originals == np.asarray(candidates.variants, dtype=object)[candidates.variant]
    preference = np.lexsort((-np.nan_to_num(full, nan=-2.0), ~own, candidates.variant))
    starts = np.searchsorted(candidates.variant, np.arange(len(candidates.variants)))
    place = np.arange(len(preference)) - starts[candidates.variant[preference]]
    return np.sort(preference[place < MOST_CANDIDATES])


def _bm25(candidates: Candidates, bm25: pl.DataFrame | None) -> tuple[np.ndarray, np.ndarray]:
    # Scores and ranks; without the table the order of the candidates is the BM25 order.
    if bm25 is not None:
        scores, ranks = candidates.align(bm25, "score"), candidates.align(bm25, "rank")
        return scores, np.nan_to_num(ranks)
    starts = np.searchsorted(candidates.variant, np.arange(len(candidates.variants)))
    return np.full(len(candidates.variant), np.nan), np.arange(len(candidates.variant)) - starts[candidates.variant] + 1


def texts(frame: pl.DataFrame | None, wanted: set[str]) -> Mapping[str, list[list[str]]] | None:
    """{id: [[role, text], ...]} of the wanted ids, a tool call as JSON behind its text; None without a table."""
    if frame is None:
        return None
    samples = samples_of(frame.filter(pl.col("id").is_in(list(wanted))))
    return {sample.id: [[message["role"], _shown_text(message)] for message in sample.messages] for sample in samples}


def _shown_text(message: Message) -> str:
    calls = (json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls", ()))
    return "\n".join(filter(None, (message["content"], *calls)))
