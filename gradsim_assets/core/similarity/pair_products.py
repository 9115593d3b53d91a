"""Dot products of all pairs and components as arrays, and how candidates rank: the ground of every analysis."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.errors import InputError

_TERMS = ("dot_product", "variant_self", "original_self")


def cosine(dot: np.ndarray, variant_self: np.ndarray, original_self: np.ndarray) -> np.ndarray:
    """<a, b> / sqrt(<a, a> <b, b>) in float64, elementwise; NaN where a gradient has no length or a term is missing."""
    product = variant_self * original_self
    undefined = ~(product > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        np.sqrt(product, out=product)
        np.divide(dot, product, out=product)
    product[undefined] = np.nan
    return product


def rho(similarity: np.ndarray, full: np.ndarray) -> float:
    """Cosine between two vectors of pair similarities (float64); NaN where one of them has no length.

    Pairs whose full-gradient similarity is undefined are left out: there is nothing to agree with. Where only the
    other similarity is undefined it counts as 0, which lowers the agreement: such a pair is not explained.
    """
    product = float(similarity @ full)
    if not np.isnan(product):  # NaN would have come through: nothing is undefined, and the masks can be spared
        norms = float(similarity @ similarity) * float(full @ full)
        return product / norms**0.5 if norms > 0 else float("nan")
    both, first, second = (float(terms.sum()) for terms in rho_terms(similarity, full))
    return both / (first * second) ** 0.5 if first * second > 0 else float("nan")


def rho_terms(similarity: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every pair adds to the product of the two vectors of `rho` and to their squared lengths (float64 [P] each)."""
    first = np.where(np.isnan(similarity) | np.isnan(full), 0.0, similarity)
    second = np.where(np.isnan(full), 0.0, full)
    return first * second, first * first, second * second


@dataclass(frozen=True)
class Candidates:
    """Which originals each variant is compared with: P pairs, ordered by variant and then by rank.

    `variant` (int64, length P) is each pair's index into `variants`; `originals` the P ids of the originals.
    """

    variants: tuple[str, ...]
    variant: np.ndarray
    originals: np.ndarray

    @cached_property
    def slots(self) -> np.ndarray:
        """Indices of pairs [K, V], slot 0 the variant's own original, then the others by rank; P stands for "none"."""
        pairs, variants = len(self.variant), len(self.variants)
        own = self.originals == np.asarray(self.variants, dtype=object)[self.variant]
        starts = np.searchsorted(self.variant, np.arange(variants))
        place = np.arange(pairs) - starts[self.variant]
        own_place = np.full(variants, np.iinfo(np.int64).max)
        own_place[self.variant[own]] = place[own]
        # Those before the own original move up by one, so that slot 0 is free for it.
        slot = np.where(own, 0, np.where(place > own_place[self.variant], place, place + 1))
        slots = np.full((int(slot.max(initial=0)) + 1, variants), pairs)
        slots[slot, self.variant] = np.arange(pairs)
        return slots

    @property
    def counts(self) -> np.ndarray:
        """Number of candidates of each variant (int64, length V)."""
        return np.bincount(self.variant, minlength=len(self.variants))

    @property
    def has_own(self) -> np.ndarray:
        """Whether each variant is compared with its own original at all (bool, length V)."""
        return self.slots[0] < len(self.variant)

    @property
    def frame(self) -> pl.DataFrame:
        """The columns variant_id, original_id of the P pairs in order."""
        names = np.asarray(self.variants, dtype=object)[self.variant]
        return pl.DataFrame(
            {"variant_id": names.tolist(), "original_id": self.originals.tolist()},
            schema={"variant_id": pl.String, "original_id": pl.String},
        )

    def align(self, frame: pl.DataFrame, column: str) -> np.ndarray:
        """A column of a table with variant_id and original_id as float64 of length P; NaN where a pair is missing.

        Raises:
            InputError: the table holds a pair more than once.
        """
        table = frame.select("variant_id", "original_id", pl.col(column).cast(pl.Float64))
        doubled = table.filter(table.select("variant_id", "original_id").is_duplicated())
        if len(doubled):
            pair = doubled.row(0)[:2]
            raise InputError(f"the pair ({pair[0]}, {pair[1]}) occurs more than once; write each pair's {column} once.")
        joined = self.frame.join(table, on=["variant_id", "original_id"], how="left", maintain_order="left")
        return joined[column].fill_null(float("nan")).to_numpy().copy()

    def ranks(self, similarity: np.ndarray) -> np.ndarray:
        """Rank of each variant's own original (float64, length V) under the similarities of the P pairs.

        A tie counts against the own original, so rank 1 means strictly the largest. An undefined similarity (NaN)
        never wins: as a rival it ranks below, and an own original that is undefined or missing has rank infinity.
        """
        cells = np.append(similarity, np.nan)[self.slots]
        own, rivals = cells[0], cells[1:]
        ranks = 1.0 + (rivals >= own).sum(axis=0)
        return np.where(np.isnan(own), np.inf, ranks)

    def best(self, similarity: np.ndarray) -> np.ndarray:
        """Highest similarity of each variant over its candidates (float64, length V); NaN where none is defined."""
        return np.fmax.reduce(np.append(similarity, np.nan)[self.slots], axis=0)


@dataclass(frozen=True)
class PairProducts:
    """The three terms of every pair and component: float64 arrays [C, P], NaN where a row is missing."""

    candidates: Candidates
    components: tuple[str, ...]
    dot_product: np.ndarray
    variant_self: np.ndarray
    original_self: np.ndarray

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pl.LazyFrame, components: Sequence[str] | None = None) -> "PairProducts":
        """Reads a `dot_products` table; variants, candidates and components keep the order of first appearance.

        `components` gives the model order where the table does not hold all of them for its first pair.

        Raises:
            InputError: a row occurs twice, or a component is not among `components`.
        """
        return cls(*read_pairs(frame, "dot_products", _TERMS, components))

    @cached_property
    def similarity(self) -> np.ndarray:
        """Cosine per component: float64 [C, P], NaN where undefined."""
        return cosine(self.dot_product, self.variant_self, self.original_self)

    @cached_property
    def full_similarity(self) -> np.ndarray:
        """Cosine of the full gradients, from the sums over all components: float64 of length P, NaN where undefined."""
        return cosine(*(term.sum(axis=0) for term in (self.dot_product, self.variant_self, self.original_self)))

    @cached_property
    def ranks(self) -> np.ndarray:
        """Rank of the own original under each component: float64 [C, V]."""
        shape = (len(self.components), len(self.candidates.variants))
        return np.array([self.candidates.ranks(row) for row in self.similarity]).reshape(shape)


def preconditioned_terms(
    candidates: Candidates, frame: pl.DataFrame | pl.LazyFrame | None
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By preconditioner, in order of their names, <v, P o>, <v, P v> and <o, P o> of the full gradients of the P pairs.

    `frame` is a table `preconditioned_products`, or one of its columns; None where there is none. Float64 of length P, NaN for
    a pair that is not in it.
    """
    if frame is None:
        return {}
    # In the order of the rows, so that no sum depends on the number of threads.
    by_pair = frame.lazy().group_by("preconditioner", "variant_id", "original_id", maintain_order=True)
    summed = by_pair.agg(pl.col(*_TERMS).sum()).collect()
    found = {}
    for (name,), rows in sorted(summed.partition_by("preconditioner", as_dict=True).items()):
        dot, variant_self, original_self = (candidates.align(rows, term) for term in _TERMS)
        found[str(name)] = dot, variant_self, original_self
    return found


def read_pairs(
    frame: pl.DataFrame | pl.LazyFrame, name: str, columns: Sequence[str], components: Sequence[str] | None = None
) -> Any:
    """A long table of pairs and components as (Candidates, names of the C components, one [C, P] array per column).

    Raises:
        InputError: a row occurs twice, or a component is not among `components`.
    """
    table = frame.lazy().select("variant_id", "original_id", "component", *columns).collect()
    variants, variant = _codes(table["variant_id"])
    originals, original = _codes(table["original_id"])
    names, component = _codes(table["component"])
    if components is not None:
        names, component = _reordered(names, component, components, name)
    key = variant * max(len(originals), 1) + original
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.lexsort((first, variant[first]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first = first[order]
    cell = component * len(first) + place[inverse]
    filled = np.bincount(cell, minlength=len(names) * len(first))
    if filled.max(initial=0) > 1:
        row = table.row(int(np.flatnonzero(filled[cell] > 1)[0]))
        raise InputError(f"{name} holds ({row[0]}, {row[1]}) twice for component {row[2]}; rematerialise its shard.")
    arrays = []
    for column in columns:
        values = np.full(len(names) * len(first), np.nan)
        found = table[column].fill_null(float("nan")).to_numpy()
        values[cell] = np.where(np.isfinite(found), found, np.nan)  # an overflow is no similarity either
        arrays.append(values.reshape(len(names), len(first)))
    return Candidates(variants, variant[first], np.asarray(originals, dtype=object)[original[first]]), names, *arrays


def _codes(names: pl.Series) -> tuple[tuple[str, ...], np.ndarray]:
    # Names in order of first appearance, and each row's index into them.
    distinct = names.unique(maintain_order=True)
    return tuple(distinct.to_list()), names.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int64)


def _reordered(
    names: tuple[str, ...], component: np.ndarray, components: Sequence[str], table: str
) -> tuple[tuple[str, ...], np.ndarray]:
    index = {name: place for place, name in enumerate(components)}
    unknown = [name for name in names if name not in index]
    if unknown:
        raise InputError(
            f"{table} holds component {unknown[0]}, which the model does not have; "
            f"rematerialise parameters_per_component and {table} from one revision."
        )
    present = sorted(names, key=index.__getitem__)
    place = {name: i for i, name in enumerate(present)}
    return tuple(present), np.array([place[name] for name in names], dtype=np.int64)[component]
