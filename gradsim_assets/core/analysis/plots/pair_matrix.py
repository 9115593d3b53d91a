"""What both kinds of plots show of an exhaustive comparison: a matrix of all pairs in cells that can be seen, and how the own pairs
and the others are spread."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots.wording import MOST_CELLS
from gradsim_assets.core.tables.schemas import FULL_GRADIENT

#: Bars of the histograms over the whole range of similarities, and as many as that of own pairs that are fewer than so many.
BARS, FEW_BARS, FEW = 40, 20, 100

#: Share of the cells that the colours tell apart: those above it have the brightest one, so that a few copies do not darken the rest.
TOLD_APART = 0.995

#: Digits of a cell, as many as are shown.
_DIGITS = 4


@dataclass(frozen=True)
class Axis:
    """One side of the matrix: what its N cells are called, and how many samples share one (the last may have fewer)."""

    labels: tuple[str, ...]
    samples: int
    share: int


@dataclass(frozen=True)
class Scale:
    """The least and the largest similarity of all pairs, and the ends of the colours of the cells."""

    pairs: tuple[float, float]
    cells: tuple[float, float]


@dataclass(frozen=True)
class PairMatrix:
    """Similarities (cosines) of V variants with O originals.

    Attributes:
        rows, columns: the variants in the order of the table; their own originals in the same order, and behind them those without
            a variant, by id.
        cells: float64 [R, C]: the highest similarity of the pairs of a cell, NaN where none is defined.
        pairs: [R][C]: the ids (variant, original) of the pair that a cell's similarity is of; empty ones where it is NaN.
        own, others: the similarities of the own pairs and of all others, those that are defined.
    """

    rows: Axis
    columns: Axis
    cells: np.ndarray
    pairs: list[list[tuple[str, str]]]
    own: np.ndarray
    others: np.ndarray

    @property
    def is_binned(self) -> bool:
        """Whether cells stand for more than one pair."""
        return self.rows.share > 1 or self.columns.share > 1

    @property
    def scale(self) -> Scale:
        """The ends of its histograms and colours."""
        both = np.concatenate([self.own, self.others])
        ends = (float(both.min()), float(both.max()))
        return Scale(ends, (float(np.nanmin(self.cells)), float(np.nanquantile(self.cells, TOLD_APART))))


def pair_matrix(similarity: pl.DataFrame | pl.LazyFrame) -> PairMatrix | None:
    """The full gradient's similarities of a table `gradient_similarity`; None unless it has every variant with every original, two
    of each at least, and a similarity among them that is defined."""
    found = (
        similarity.lazy()
        .filter(pl.col("component") == FULL_GRADIENT)
        .select("variant_id", "original_id", "similarity")
        .collect()
    )
    variants = found["variant_id"].unique(maintain_order=True).to_list()
    known = set(found["original_id"].unique())
    if min(len(variants), len(known)) < 2 or len(found) != len(variants) * len(known):
        return None
    mine = [name for name in variants if name in known]
    originals = [*mine, *sorted(known.difference(mine))]
    values = np.full((len(variants), len(originals)), np.nan)
    row, column = (
        _places(found[name], order) for name, order in (("variant_id", variants), ("original_id", originals))
    )
    values[row, column] = found["similarity"].fill_null(float("nan")).to_numpy()
    if np.isnan(values).all():
        return None
    own = np.array(variants)[:, None] == np.array(originals)
    defined = ~np.isnan(values)
    rows, columns = _axis(variants), _axis(originals)
    cells, pairs = _cells(values, rows.share, columns.share, variants, originals)
    return PairMatrix(rows, columns, cells, pairs, values[own & defined], values[~own & defined])


def _places(names: pl.Series, order: Sequence[str]) -> np.ndarray:
    return names.replace_strict(dict(zip(order, range(len(order)), strict=True)), return_dtype=pl.Int64).to_numpy()


def _axis(names: Sequence[str]) -> Axis:
    share = -(-len(names) // MOST_CELLS)
    parts = [names[start : start + share] for start in range(0, len(names), share)]
    return Axis(tuple(part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts), len(names), share)


def _cells(
    values: np.ndarray, down: int, across: int, variants: Sequence[str], originals: Sequence[str]
) -> tuple[np.ndarray, list[list[tuple[str, str]]]]:
    """The highest value of every cell of `down` x `across` pairs, and the pair that it is of."""
    count = -(-values.shape[0] // down), -(-values.shape[1] // across)
    padded = np.full((count[0] * down, count[1] * across), -np.inf)
    padded[: values.shape[0], : values.shape[1]] = np.nan_to_num(values, nan=-np.inf)
    parts = padded.reshape(count[0], down, count[1], across).swapaxes(1, 2).reshape(*count, down * across)
    best, highest = parts.argmax(-1), parts.max(-1)
    row = np.arange(count[0])[:, None] * down + best // across
    column = np.arange(count[1]) * across + best % across
    pairs = [
        [
            (variants[v], originals[o]) if value > -np.inf else ("", "")
            for v, o, value in zip(*line, strict=True)
        ]
        for line in zip(row, column, highest, strict=True)
    ]  # fmt: skip
    return np.round(np.where(np.isinf(highest), np.nan, highest), _DIGITS), pairs


def common_scale(matrices: Iterable[PairMatrix | None]) -> Scale | None:
    """The ends of some matrices together, so that these can be compared; None without any."""
    scales = [one.scale for one in matrices if one is not None]
    if not scales:
        return None
    return Scale(_reach([one.pairs for one in scales]), _reach([one.cells for one in scales]))


def _reach(ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ends), max(high for _, high in ends)


def bars(matrix: PairMatrix, scale: Scale) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the B bars of both histograms over the scale, [B + 1], and the shares (%) of the own pairs and of the others in
    each, [B]."""
    low, high = scale.pairs
    low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
    edges = np.linspace(low, high, (BARS if len(matrix.own) >= FEW else FEW_BARS) + 1)
    own, others = (
        100 * np.histogram(found, edges)[0] / max(len(found), 1) for found in (matrix.own, matrix.others)
    )  # fmt: skip
    return edges, own, others
