"""One variant under two models: what each ranks highest, and where they decide otherwise."""

from dataclasses import dataclass

import polars as pl

from gradsim_assets.core.analysis.control_comparison import paired_ranks
from gradsim_assets.core.components import component_columns, family
from gradsim_assets.core.tables.schemas import FULL_GRADIENT

#: Who finds the own original of a variant, of two models, in the order in which a reader wants to see them.
DECIDED = ("first", "second", "neither", "both")


def decisions(first: pl.LazyFrame, second: pl.LazyFrame) -> pl.DataFrame:
    """By variant who finds its own original (`decided`, one of `DECIDED`): those on which the models differ first, then by id.

    Arguments are one component's rows of the tables `gradient_similarity` of two models. Variants that have not the same
    candidates under both are left out. Columns: variant_id, decided.
    """
    variants, components, ranks, others = paired_ranks(first, second)
    if not components:
        return pl.DataFrame(schema={"variant_id": pl.String, "decided": pl.Enum(DECIDED)})
    found, found_too = (ranks[0] == 1).tolist(), (others[0] == 1).tolist()
    names = {(True, False): "first", (False, True): "second", (False, False): "neither", (True, True): "both"}
    decided = [names[pair] for pair in zip(found, found_too, strict=True)]
    frame = pl.DataFrame({"variant_id": list(variants), "decided": pl.Series(decided, dtype=pl.Enum(DECIDED))})
    return frame.sort("decided", maintain_order=True)


@dataclass(frozen=True)
class Place:
    """A component of a model with the similarity of a variant and its own original, and the highest of the other candidates'."""

    component: str
    family: str
    depth: int | None
    own: float | None
    rival: float | None


@dataclass(frozen=True)
class SampleUnderModel:
    """A variant's candidates under a model.

    `ranked` has original_id, similarity (of the chosen component) and full_gradient, the most similar first; `places` are the
    components in model order. `rank` is that of the own original under the chosen component, None where it has no similarity.
    """

    variant: str
    ranked: pl.DataFrame
    places: tuple[Place, ...]
    full: Place | None

    @property
    def rank(self) -> int | None:
        """Strictly: a candidate that is as similar stands before the own original, as in all of retrieval."""
        own = self.ranked.filter(original_id=self.variant)["similarity"]
        if own.is_empty() or own[0] is None:
            return None
        others = self.ranked.filter(pl.col("original_id") != self.variant)
        return 1 + others.filter(pl.col("similarity") >= own[0]).height

    @property
    def margin(self) -> float | None:
        """What the own original has more, under the chosen component, than the best of the others."""
        own = self.ranked.filter(original_id=self.variant)["similarity"]
        others = self.ranked.filter(pl.col("original_id") != self.variant)["similarity"].drop_nulls()
        if own.is_empty() or own[0] is None or others.is_empty():
            return None
        return float(own[0]) - float(others.max())  # type: ignore[arg-type]  # numbers


def under_model(similarity: pl.LazyFrame, variant: str, component: str) -> SampleUnderModel:
    """A variant under a model, by its table `gradient_similarity`; `component` may be the full gradient."""
    rows = similarity.filter(pl.col("variant_id") == variant).collect()
    by_original = rows.filter(component=component).select("original_id", "similarity")
    full = rows.filter(component=FULL_GRADIENT).select("original_id", full_gradient="similarity")
    ranked = by_original.join(full, on="original_id", how="left", maintain_order="left")
    own = pl.col("original_id") == variant
    # Of equals the own original comes last: a tie is wrong.
    order = ranked.sort(pl.col("similarity").fill_null(-2.0), own.not_(), descending=True, maintain_order=True)
    found = {name: part for (name,), part in rows.partition_by("component", as_dict=True, maintain_order=True).items()}
    names = [name for name in found if name != FULL_GRADIENT]
    described = component_columns(names).rows(named=True)
    places = tuple(
        _place(found[row["component"]], variant, family(row["component_type"]), row["depth"]) for row in described
    )
    whole = _place(found[FULL_GRADIENT], variant, "", None) if FULL_GRADIENT in found else None
    return SampleUnderModel(variant, order, places, whole)


def _place(rows: pl.DataFrame, variant: str, of_family: str, depth: int | None) -> Place:
    own = rows.filter(original_id=variant)["similarity"]
    rival = rows.filter(pl.col("original_id") != variant)["similarity"].max()
    return Place(
        rows["component"][0],
        of_family,
        depth,
        None if own.is_empty() else own[0],
        None if rival is None else float(rival),  # type: ignore[arg-type]  # a number
    )
