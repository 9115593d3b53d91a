"""Which pairs are told by token, and in what order and company, so that few samples go through the model twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

_TERMS = ("dot_product", "variant_self", "original_self")


@dataclass(frozen=True)
class AttributedPair:
    """A pair with the stored product of its full gradients, and the product of their lengths."""

    variant_id: str
    original_id: str
    dot_product: float
    lengths: float


def attributed_pairs(dot_products: pl.DataFrame | pl.LazyFrame) -> list[AttributedPair]:
    """Of every variant the pair with its own original, and the best wrong one: the other of the largest cosine under the full
    gradient, of equal ones the first of the table.

    Pairs whose cosine is undefined (a gradient without length) are left out; there is nothing to be told of them.
    """
    summed = (
        dot_products.lazy()
        .group_by("variant_id", "original_id", maintain_order=True)
        .agg(*(pl.col(term).sum() for term in _TERMS))
        .with_columns(lengths=(pl.col("variant_self") * pl.col("original_self")).sqrt())
        .filter(pl.col("lengths").is_finite() & (pl.col("lengths") > 0) & pl.col("dot_product").is_finite())
        .with_columns(own=pl.col("variant_id") == pl.col("original_id"))
        .sort(pl.col("dot_product") / pl.col("lengths"), descending=True, maintain_order=True)
        .group_by("variant_id", "own", maintain_order=True)
        .first()
        .sort("own", descending=True, maintain_order=True)
    )
    order = dot_products.lazy().select(pl.col("variant_id").unique(maintain_order=True))
    rows = order.join(summed, on="variant_id", how="inner", maintain_order="left_right").collect()
    return [
        AttributedPair(**row)
        for row in rows.select("variant_id", "original_id", "dot_product", "lengths").rows(named=True)
    ]


def pair_frame(pairs: Sequence[AttributedPair]) -> pl.DataFrame:
    """The columns variant_id and original_id of pairs in their order."""
    columns = {"variant_id": [one.variant_id for one in pairs], "original_id": [one.original_id for one in pairs]}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String()))


def chained(pairs: Sequence[AttributedPair]) -> list[AttributedPair]:
    """The pairs in an order in which neighbours share samples: behind the pairs of a variant come those of the variant whose
    own original is its best wrong one, which is at hand then.

    Chains begin where no other leads to, so that few are cut.
    """
    by_variant: dict[str, list[AttributedPair]] = {}
    for pair in pairs:
        by_variant.setdefault(pair.variant_id, []).append(pair)
    wrong = {
        variant: next((one.original_id for one in own if one.original_id != variant), None)
        for variant, own in by_variant.items()
    }
    led_to = set(wrong.values())
    found: dict[str, list[AttributedPair]] = {}
    for start in sorted(by_variant, key=lambda variant: variant in led_to):
        at: str | None = start
        while at in by_variant and at not in found:
            found[at] = by_variant[at]
            at = wrong[at]
    return [pair for own in found.values() for pair in own]


def blocks(
    pairs: Sequence[AttributedPair], sizes: Mapping[tuple[str, str], int], most: int
) -> Iterator[list[AttributedPair]]:
    """Runs of pairs whose distinct samples take at most so many bytes together, or of one pair.

    `sizes` are those of the samples by ("variant" or "original", id).
    """
    block: list[AttributedPair] = []
    held: set[tuple[str, str]] = set()
    for pair in pairs:
        keys = {("variant", pair.variant_id), ("original", pair.original_id)}
        if block and sum(sizes[key] for key in held | keys) > most:
            yield block
            block, held = [], set()
        block.append(pair)
        held |= keys
    if block:
        yield block
