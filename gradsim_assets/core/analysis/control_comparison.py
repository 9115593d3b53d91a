"""`control_comparison`: a model beside models that cannot know its originals, variant by variant."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.retrieval import mcnemar
from gradsim_assets.core.analysis.scoring import bootstrap_interval, paired_columns, share_columns
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.models.controls import control_kind
from gradsim_assets.core.similarity.pair_products import Candidates, read_pairs
from gradsim_assets.core.tables.schemas import CONTROL_COMPARISON, FULL_GRADIENT


def control_comparison(
    similarity: pl.DataFrame | pl.LazyFrame, controls: Mapping[str, pl.DataFrame | pl.LazyFrame]
) -> pl.DataFrame:
    """The table `control_comparison`: a row for every control and component (the full gradient among them).

    Both models are scored on the same variants, those of equal id which have the same candidates under both: so decisions
    are paired, and of the difference of two accuracies the interval is that of `paired_interval`, of two mean reciprocal
    ranks the paired bootstrap's over variants. A tie is wrong, as in all of retrieval. In the setting `model_generated` each
    model has given its own answers.

    Args:
        similarity: the table `gradient_similarity` of the model.
        controls: those of its controls by their ids.
    """
    frames = [_of_control(similarity, control, other) for control, other in controls.items()]
    return CONTROL_COMPARISON.enforce(pl.concat(frames) if frames else CONTROL_COMPARISON.empty())


def _of_control(
    similarity: pl.DataFrame | pl.LazyFrame, control: str, other: pl.DataFrame | pl.LazyFrame
) -> pl.DataFrame:
    _, shared, first, second = paired_ranks(similarity.lazy(), other.lazy())
    right, theirs_right = first == 1, second == 1
    count = right.shape[1]
    reciprocal, theirs_reciprocal = 1 / first, 1 / second
    low, high = bootstrap_interval(reciprocal - theirs_reciprocal)
    columns = {
        **share_columns("accuracy", right),
        **share_columns("control_accuracy", theirs_right),
        **paired_columns(right, theirs_right),
        "p_value": np.array([mcnemar(*pair) for pair in zip(right, theirs_right, strict=True)]),
        "mrr": reciprocal.sum(axis=1) / max(count, 1),
        "control_mrr": theirs_reciprocal.sum(axis=1) / max(count, 1),
        "mrr_difference": (reciprocal - theirs_reciprocal).sum(axis=1) / max(count, 1),
        "mrr_difference_low": low,
        "mrr_difference_high": high,
    }
    return pl.DataFrame(
        {
            "control": [control_kind(control)] * len(shared),
            "control_model": [control] * len(shared),
            **component_columns(shared).drop("parameters").to_dict(),
            "variants": [count] * len(shared),
            "only_model_right": (right & ~theirs_right).sum(axis=1),
            "only_control_right": (theirs_right & ~right).sum(axis=1),
            **{name: pl.Series(values, dtype=pl.Float64, nan_to_null=True) for name, values in columns.items()},
        }
    ).select(list(CONTROL_COMPARISON.columns))


def paired_ranks(
    similarity: pl.LazyFrame, other: pl.LazyFrame
) -> tuple[tuple[str, ...], list[str], np.ndarray, np.ndarray]:
    """The ranks of own originals under two models, on the variants that have the same candidates under both.

    Arguments are tables `gradient_similarity`. The V variants in the order of their ids, the C components that both have, and the
    ranks under each model (float64 [C, V], infinite where the own original has none).
    """
    own, theirs = _comparable(similarity, other)
    variants, names, first = _ranks(own)
    _, others, second = _ranks(theirs)
    shared = [name for name in names if name in others]
    places = [[of_one.index(name) for name in shared] for of_one in (names, others)]
    return variants, shared, first[places[0]], second[places[1]]


def _comparable(own: pl.LazyFrame, other: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of the variants that have the same candidates in both tables, in one order of pairs."""
    pair = ["variant_id", "original_id"]
    candidates = [
        frame.select(pair).unique().group_by("variant_id").agg(pl.col("original_id").sort()).collect()
        for frame in (own, other)
    ]
    same = pl.col("variant_id").is_in(candidates[0].join(candidates[1], on=pair)["variant_id"].to_list())
    return tuple(  # type: ignore[return-value]  # of two
        frame.filter(same).sort(pair, maintain_order=True).collect() for frame in (own, other)
    )


def _ranks(similarity: pl.DataFrame) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Variants, components, and the ranks of the own originals under each of them (float64 [C, V]), variants in the order of their ids."""
    found: tuple[Candidates, tuple[str, ...], np.ndarray] = read_pairs(
        similarity, "gradient_similarity", ("similarity",)
    )
    candidates, components, values = found
    shape = (len(components), len(candidates.variants))
    return candidates.variants, list(components), np.array([candidates.ranks(row) for row in values]).reshape(shape)


def of_full_gradient(comparison: pl.DataFrame | None) -> list[dict[str, Any]]:
    """The rows of the full gradient of a table `control_comparison`, one for every control; none where there is no table."""
    return [] if comparison is None else comparison.filter(component=FULL_GRADIENT).rows(named=True)
