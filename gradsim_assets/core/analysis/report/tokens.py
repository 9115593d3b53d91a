"""What tokens make up of products, as the explorer colours texts by it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.report.packing import pack

#: Tokens that a page holds numbers of, of one setting: more would make it slow to open. Pairs beyond are told without.
MOST_TOKENS = 2_000_000

#: Places are stored as 16-bit integers; texts of more tokens are told without.
_MOST_PLACES = 2**16 - 1

#: Contributions are stored as 16-bit integers: steps of 3e-5 of the largest of their text.
_SCALE = 32767

#: By id, [role, text] of every message.
Texts = Mapping[str, Sequence[Sequence[str]]]


def tokens(attribution: pl.DataFrame, variants: Texts | None, originals: Texts | None) -> dict[str, Any]:
    """One setting's table `token_attribution` as the page reads it, pair by pair, with how tokens cut texts up.

    `texts` has by side and id the messages as they were cut: [role, text or null for that of the page, first token, lengths in
    UTF-16 units]. `pairs` has by variant and original for each side: the sum, the largest contribution, contributions in
    parts of that, and places of linked tokens.
    """
    cut: dict[str, dict[str, list[Any]]] = {"variant": {}, "original": {}}
    known = {"variant": variants or {}, "original": originals or {}}
    pairs: dict[str, dict[str, Any]] = {}
    left = MOST_TOKENS
    for (variant, original), rows in attribution.group_by("variant_id", "original_id", maintain_order=True):
        left -= rows.height
        if left < 0:
            break
        if int(rows["linked"].max() or 0) > _MOST_PLACES:  # type: ignore[arg-type]
            continue
        told = {}
        for side, name in (("variant", str(variant)), ("original", str(original))):
            own = rows.filter(side=side).sort("position")
            whole = _whole(own["token"].to_list(), own["contribution"].to_numpy())
            if name not in cut[side]:
                cut[side][name] = _cut(own["token"].to_list(), known[side].get(name))
            told[side] = _numbers(whole, own["linked"].to_numpy())
        pairs.setdefault(str(variant), {})[str(original)] = told
    return {"texts": cut, "pairs": pairs}


def _whole(pieces: Sequence[str], contributions: np.ndarray) -> np.ndarray:
    """Contributions of tokens that are only a part of a character go to the one that ends it, where the text is shown."""
    found, carried = contributions.copy(), 0.0
    for place, piece in enumerate(pieces):
        found[place] += carried
        carried = 0.0 if piece or place + 1 == len(pieces) else found[place]
        if carried:
            found[place] = 0.0
    return found


def _numbers(contributions: np.ndarray, linked: np.ndarray) -> dict[str, Any]:
    largest = float(np.abs(contributions).max(initial=0.0))
    parts = np.round(contributions / (largest or 1.0) * _SCALE).astype(np.int16)
    return {
        "total": float(contributions.sum()),
        "largest": largest,
        "parts": pack(parts),
        "linked": pack(linked.astype(np.uint16)),
    }


def _cut(pieces: Sequence[str], messages: Sequence[Sequence[str]] | None) -> list[Any]:
    """The messages as tokens cut them up; all as one text where the template has changed what stands in them."""
    whole, found, start = "".join(pieces), [], 0
    ends = np.cumsum([len(piece) for piece in pieces])
    for role, text in messages or ():
        place = whole.find(text, start)
        if place < 0:
            return [["text", whole, 0, [_units(piece) for piece in pieces]]]
        start = place + len(text)
        found.append([role, None, *_lengths(whole, ends, place, start)])
    return found or [["text", whole, 0, [_units(piece) for piece in pieces]]]


def _lengths(whole: str, ends: np.ndarray, start: int, end: int) -> tuple[int, list[int]]:
    """The first token of a stretch of the text, and how much of it is in each from there on."""
    first, last = int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, end, side="left"))
    lengths, at = [], start
    for token in range(first, last + 1):
        upto = min(end, int(ends[token]))
        lengths.append(_units(whole[at:upto]))
        at = upto
    return first, lengths


def _units(text: str) -> int:
    """The length of a text as browsers count it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
