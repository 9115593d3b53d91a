"""Ways of scoring every original for every variant, each as one dense matrix: what is put to the test by retraining.

A new method is one more `Method`, made by one more function of `methods`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from gradsim_assets.core.candidates.bm25 import Index, Tokens
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.datasets.text_overlap import overlaps
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.tail_patch import DOT_PRODUCT, RANDOM, held_out_component, preconditioned_scores
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.similarity.pair_products import PairProducts, cosine
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, TEXT_OVERLAP

COMPONENT, COMPONENT_TYPE = "component", "component_type"


@dataclass(frozen=True)
class Method:
    """A method and its scores: `scores` makes float64 [V, O], higher where the original should matter more, NaN where undefined.

    `component` is the component, or the type of components, that the scores are of; None for all other methods.
    """

    name: str
    scores: Callable[[], np.ndarray]
    component: str | None = None


@dataclass(frozen=True)
class Scored:
    """All that methods are made of: V variants and O originals, and what is known of their pairs.

    `preconditioned` is the table `all_pairs_preconditioned`, None where there is none.

    `representations` are float64 [V, D] and [O, D], rows in the order of the ids (see `representation_vectors`).
    """

    variants: Sequence[Sample]
    originals: Sequence[Sample]
    pairs: PairProducts
    parameters: pl.DataFrame
    projected: pl.DataFrame
    representations: tuple[np.ndarray, np.ndarray]
    tokens: Tokens = str.split
    preconditioned: pl.DataFrame | pl.LazyFrame | None = None

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column (int64 [P] each) of every pair."""
        rows = {sample.id: place for place, sample in enumerate(self.variants)}
        columns = {sample.id: place for place, sample in enumerate(self.originals)}
        candidates = self.pairs.candidates
        try:
            row = np.array([rows[name] for name in candidates.variants], dtype=np.int64)[candidates.variant]
            return row, np.array([columns[name] for name in candidates.originals], dtype=np.int64)
        except KeyError as error:
            raise InputError(
                f"all_pairs names {error.args[0]}, which is no sample of now; materialise all_pairs again."
            ) from error

    def dense(self, values: np.ndarray) -> np.ndarray:
        """Values of the P pairs as a matrix; NaN where a pair is not there."""
        found = np.full((len(self.variants), len(self.originals)), np.nan)
        found[self._cells] = values
        return found


def methods(scored: Scored) -> Iterator[Method]:
    """Every method, the components last."""
    yield Method("bm25", lambda: _bm25(scored))
    yield Method(TEXT_OVERLAP, lambda: _text_overlap(scored))
    yield Method("representation", lambda: _cosines(*scored.representations))
    pairs = scored.pairs
    yield Method(FULL_GRADIENT, lambda: scored.dense(pairs.full_similarity))
    yield Method(DOT_PRODUCT, lambda: scored.dense(pairs.dot_product.sum(axis=0)))
    for name, values in preconditioned_scores(pairs.candidates, scored.preconditioned).items():
        yield Method(name, lambda values=values: scored.dense(values))  # type: ignore[misc]
    yield Method("best_component", lambda: scored.dense(held_out_component(pairs, scored.parameters)[1]))
    for proportion in sorted(scored.projected["proportion"].drop_nulls().unique()):
        yield _projection(scored, proportion)
    yield Method(RANDOM, lambda: random_scores(scored.variants, scored.originals))
    columns = component_columns(pairs.components)
    for kind in columns["component_type"].unique(maintain_order=True):
        chosen = (columns["component_type"] == kind).to_numpy()
        yield Method(COMPONENT_TYPE, lambda chosen=chosen: scored.dense(_of_set(pairs, chosen)), kind)  # type: ignore[misc]
    for place, name in enumerate(pairs.components):
        yield Method(COMPONENT, lambda place=place: scored.dense(pairs.similarity[place]), name)  # type: ignore[misc]


def _bm25(scored: Scored) -> np.ndarray:
    index = Index([original.user for original in scored.originals], scored.tokens)
    return np.array([index.scores(variant.user) for variant in scored.variants])


def _text_overlap(scored: Scored) -> np.ndarray:
    """chrF2 of the answers."""
    own, answers = ([one.assistant for one in samples] for samples in (scored.variants, scored.originals))
    variant, original = np.indices((len(own), len(answers)))
    return overlaps(own, answers, variant.ravel(), original.ravel()).reshape(variant.shape)


def _cosines(variants: np.ndarray, originals: np.ndarray) -> np.ndarray:
    terms = variants @ originals.T, (variants**2).sum(axis=1)[:, None], (originals**2).sum(axis=1)[None]
    return cosine(terms[0], terms[1], terms[2])


def _projection(scored: Scored, proportion: float) -> Method:
    of_size = scored.projected.filter(pl.col("proportion") == proportion)
    return Method(
        f"projection_{proportion:g}",
        lambda: scored.dense(scored.pairs.candidates.align(of_size, "similarity")),
    )


def _of_set(pairs: PairProducts, chosen: np.ndarray) -> np.ndarray:
    """Cosine of the gradients in a set of components (bool [C])."""
    terms = (pairs.dot_product, pairs.variant_self, pairs.original_self)
    return cosine(*(term[chosen].sum(axis=0) for term in terms))


def random_scores(variants: Sequence[Sample], originals: Sequence[Sample], seed: int = 0) -> np.ndarray:
    """Normal scores by a seed: those of a pair do not depend on the others."""

    def draw(variant: str) -> dict[str, float]:
        ids = sorted(one.id for one in originals)
        rng = np.random.default_rng(stable_seed("random_scores", seed, variant))
        return dict(zip(ids, rng.standard_normal(len(ids)).tolist(), strict=True))

    rows: Mapping[str, dict[str, float]] = {variant.id: draw(variant.id) for variant in variants}
    return np.array([[rows[variant.id][original.id] for original in originals] for variant in variants])
