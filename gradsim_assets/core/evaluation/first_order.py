"""`first_order`: whether products of gradients predict what one small step does to the loss of a variant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.step import Measure, Pair, Step
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.tables.schemas import FIRST_ORDER

#: By how much, to first order, the step on an original is to lower its own loss (nats per token), from large to small.
DROPS = tuple(10.0**-power for power in range(1, 10))

#: Pairs that the step is chosen on, how exactly half the step must do half of it, and below which error a larger one is
#: rounding, which still smaller steps cannot mend.
PROBES, HALVES, ROUNDS = 8, 1e-3, 0.05


@dataclass(frozen=True)
class ChosenStep:
    """The learning rate, and by how much of it half the step fails to do half."""

    learning_rate: float
    halving_error: float


@dataclass(frozen=True)
class Fit:
    """How well predictions fit: Pearson's r, and the slope of measured on predicted changes through zero; None where undefined."""

    pairs: int
    r: float | None
    slope: float | None


def full_products(dot_products: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Products of the full gradients (dot_product) and the originals' squared lengths (original_self), by pair in order."""
    terms = ("dot_product", "original_self")
    summed = dot_products.lazy().group_by("variant_id", "original_id", maintain_order=True)
    return summed.agg(*(pl.col(term).sum() for term in terms)).collect()


def choose_pairs(products: pl.DataFrame, count: int) -> pl.DataFrame:
    """So many rows of `full_products`: each chosen variant with its own original and, drawn by a seed, with others.

    Half as many variants as pairs are chosen, or all there are; who they are depends on their ids alone, and not on their
    order. More pairs than there are of them give all.
    """
    rows: dict[str, list[Pair]] = {}
    for variant, original in products.select("variant_id", "original_id").iter_rows():
        rows.setdefault(variant, []).append((variant, original))
    variants = sorted(rows, key=lambda variant: stable_seed("first_order", variant))[: (count + 1) // 2]
    drawn = [sorted(rows[variant], key=_own_first) for variant in variants]
    rounds = max(map(len, drawn), default=0)
    chosen = [pairs[number] for number in range(rounds) for pairs in drawn if number < len(pairs)][:count]
    wanted = pl.DataFrame(chosen, schema={"variant_id": pl.String, "original_id": pl.String}, orient="row")
    return wanted.join(products, on=["variant_id", "original_id"], how="inner", maintain_order="left")


def _own_first(pair: Pair) -> tuple[bool, int]:
    variant, original = pair
    return variant != original, stable_seed("first_order", variant, original)


def choose_step(measure: Measure, pairs: Sequence[Pair], squared_length: float) -> ChosenStep:
    """The largest step of `DROPS` at which half of it does half (to `HALVES`), or the one that comes nearest.

    What a step does beyond the first order grows with it, and what rounding does weighs the more the smaller it is: half a
    step does half as much where neither shows. Predictions are not looked at. Models round even where their weights are
    float64: many norms and rotary embeddings compute in float32. `squared_length` is that of a typical original's gradient.

    Raises:
        InputError: no step changes anything.
    """
    best: ChosenStep | None = None
    for drop in DROPS:
        rate = drop / squared_length
        whole, half = (_changes(measure, pairs, part) for part in (rate, rate / 2))
        size = float(np.abs(whole).sum())
        if not size > 0:
            continue
        found = ChosenStep(rate, float(np.abs(whole - 2 * half).sum()) / size)
        if best is None or found.halving_error < best.halving_error:
            best = found
            if best.halving_error <= HALVES:
                return best
        elif best.halving_error < ROUNDS:
            return best
    if best is None:
        raise InputError("no step on an original changes the loss of any variant; are the model's weights finite?")
    return best


def _changes(measure: Measure, pairs: Sequence[Pair], learning_rate: float) -> np.ndarray:
    found = measure(pairs, Step("sgd", learning_rate))
    return np.array([found[pair] for pair in pairs])


def first_order(products: pl.DataFrame, measure: Measure) -> tuple[pl.DataFrame, ChosenStep]:
    """The table `first_order` for the pairs of `products` (see `choose_pairs`), and the step that was taken for all of them.

    Predicted is -learning rate x product of the full gradients, out of the table `dot_products`; measured is the difference of
    the variant's losses behind and before one step of plain SGD on the original.

    Raises:
        InputError: no gradient of an original has a length, or no step changes anything.
    """
    lengths = products.filter(pl.col("original_self").is_finite() & (pl.col("original_self") > 0))["original_self"]
    if lengths.is_empty():
        raise InputError("no pair has an original whose gradient has a length; materialise dot_products again.")
    pairs: list[Pair] = list(products.select("variant_id", "original_id").iter_rows())
    half = len(pairs) // 2
    probes = list(dict.fromkeys([*pairs[: PROBES // 2], *pairs[half : half + PROBES // 2]]))
    step = choose_step(measure, probes, float(np.median(lengths.to_numpy())))
    measured = _changes(measure, pairs, step.learning_rate)
    frame = products.select(
        "variant_id",
        "original_id",
        learning_rate=pl.lit(step.learning_rate),
        predicted=-step.learning_rate * pl.col("dot_product"),
        measured=pl.Series(measured, dtype=pl.Float64),
    )
    return FIRST_ORDER.enforce(frame), step


def fit(frame: pl.DataFrame) -> Fit:
    """How well the predictions of a table `first_order` fit."""
    predicted, measured = frame["predicted"].to_numpy(), frame["measured"].to_numpy()
    square = float(predicted @ predicted)
    spread = len(frame) > 1 and float(np.std(predicted)) > 0 and float(np.std(measured)) > 0
    return Fit(
        len(frame),
        float(np.corrcoef(predicted, measured)[0, 1]) if spread else None,
        float(predicted @ measured) / square if square > 0 else None,
    )
