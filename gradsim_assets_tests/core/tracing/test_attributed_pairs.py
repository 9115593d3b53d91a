"""Which pairs are told by token, in what order and company."""

import math

import polars as pl

from gradsim_assets.core.tracing.attributed_pairs import AttributedPair, attributed_pairs, blocks, chained


def products(rows):
    """dot_products of two components, from (variant, original, dots, variant's squares, original's squares)."""
    return pl.DataFrame(
        [
            {
                "variant_id": v,
                "original_id": o,
                "component": name,
                "dot_product": d,
                "variant_self": a,
                "original_self": b,
            }
            for v, o, *terms in rows
            for name, (d, a, b) in zip("wb", zip(*terms, strict=True), strict=True)
        ]
    )


def test_the_own_original_and_the_best_wrong_one_under_the_full_gradient_are_chosen():
    frame = products(
        [
            ("x", "y", (3.0, 0.0), (4.0, 0.0), (9.0, 0.0)),  # cosine 0.5
            ("x", "z", (1.0, 1.0), (2.0, 2.0), (1.0, 0.0)),  # 1.0, though its product is smaller
            ("x", "x", (0.5, 0.0), (4.0, 0.0), (1.0, 0.0)),
            ("y", "z", (1.0, 0.0), (1.0, 0.0), (4.0, 0.0)),  # equal ones: the first of the table
            ("y", "x", (1.0, 0.0), (1.0, 0.0), (4.0, 0.0)),
            ("z", "z", (1.0, 0.0), (1.0, 0.0), (4.0, 0.0)),  # nothing wrong to compare it with
        ]
    )
    found = attributed_pairs(frame)
    assert [(one.variant_id, one.original_id) for one in found] == [("x", "x"), ("x", "z"), ("y", "z"), ("z", "z")]
    assert found[1] == AttributedPair("x", "z", 2.0, 2.0)


def test_pairs_without_a_cosine_are_left_out():
    nan = math.nan
    frame = products(
        [
            ("x", "x", (0.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
            ("x", "y", (nan, 0.0), (1.0, 0.0), (1.0, 0.0)),
            ("x", "z", (0.1, 0.0), (1.0, 0.0), (1.0, 0.0)),
        ]
    )
    assert [(one.variant_id, one.original_id) for one in attributed_pairs(frame)] == [("x", "z")]


def pair(variant, original):
    return AttributedPair(variant, original, 1.0, 1.0)


def test_a_chain_goes_on_with_the_variant_of_the_best_wrong_original():
    wrong = {"a": "c", "b": "a", "c": "d", "d": "c", "e": "nobody"}
    pairs = [one for v, o in wrong.items() for one in (pair(v, v), pair(v, o))]
    found = chained(pairs)
    assert sorted(map(repr, found)) == sorted(map(repr, pairs))
    variants = list(dict.fromkeys(one.variant_id for one in found))
    assert variants == ["b", "a", "c", "d", "e"], "from b, to which nobody leads, along what is at hand"


def test_blocks_hold_as_many_samples_as_fit_and_pairs_share_them():
    pairs = [pair("a", "a"), pair("a", "b"), pair("b", "b"), pair("b", "c")]
    sizes = {(side, name): 1 for side in ("variant", "original") for name in "abc"}
    by_size = {most: [len(block) for block in blocks(pairs, sizes, most)] for most in (0, 2, 3, 4, 5)}
    assert by_size == {0: [1, 1, 1, 1], 2: [1, 1, 1, 1], 3: [2, 2], 4: [3, 1], 5: [4]}
    assert [one for block in blocks(pairs, sizes, 3) for one in block] == pairs
