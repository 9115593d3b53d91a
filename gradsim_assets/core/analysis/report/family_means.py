"""What the components of a family do on the average: attention beside the MLP, norms and embeddings, in one table."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.scoring import bootstrap_interval
from gradsim_assets.core.components import FAMILIES, component_type, family
from gradsim_assets.core.similarity.pair_products import read_pairs
from gradsim_assets.core.tables.schemas import FULL_GRADIENT

#: A mean with the ends of its interval, None where there is none.
Figure = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class FamilyMeans:
    """One family: how many components it has, and means over these and over variants with bootstrap intervals over variants."""

    name: str
    components: int
    accuracy: Figure | None
    own: Figure | None  # similarity with the own original
    highest: Figure | None  # similarity with the most similar candidate


def family_means(similarity: pl.DataFrame | pl.LazyFrame) -> list[FamilyMeans]:
    """The families that a model has in the order of `FAMILIES`, from the table `gradient_similarity`.

    A component's accuracy counts a variant as found where its own original is strictly the most similar; similarities that are
    undefined are left out of a variant's mean, and variants without any out of the family's.
    """
    candidates, names, values = read_pairs(similarity, "gradient_similarity", ("similarity",))
    own_pair = np.append(np.arange(values.shape[1]), -1)[candidates.slots[0]] if len(candidates.variants) else []
    means = []
    for one in FAMILIES:
        rows = [n for n, name in enumerate(names) if name != FULL_GRADIENT and family(component_type(name)) == one]
        if not rows:
            continue
        right = np.array([candidates.ranks(values[row]) == 1 for row in rows], dtype=float)
        padded = np.append(values[rows], np.full((len(rows), 1), np.nan), axis=1)
        highest = np.array([candidates.best(values[row]) for row in rows])
        figures = [_mean(part) for part in (right, padded[:, own_pair], highest)]
        means.append(FamilyMeans(wording.FAMILY_NAMES[one], len(rows), *figures))
    return means


def _mean(values: np.ndarray) -> Figure | None:
    """Over a family's components first, then over variants; `values` is [C, V]."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    by_variant = (np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1))[counts > 0]
    if not len(by_variant):
        return None
    low, high = bootstrap_interval(by_variant[None])
    ends = None if np.isnan(low[0]) else (float(low[0]), float(high[0]))
    return (float(by_variant.mean()), *(ends or (None, None)))
