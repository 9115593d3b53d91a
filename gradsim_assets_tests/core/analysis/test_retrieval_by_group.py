"""Figures of a group are those of its variants alone; what one groups by is sensible or refused in a sentence."""

import polars as pl
import pytest

from gradsim_assets.core.analysis.retrieval import methods, order_as_bm25, retrieval
from gradsim_assets.core.analysis.retrieval_by_group import (
    MOST_COLUMNS,
    SMALL,
    grouping,
    retrieval_by_group,
    small_groups,
)
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support.analysis_data import block_names, products, sizes

NAMES = block_names(2)
TOPICS = ("art", "maths", None)


def of(**columns: list[object]) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    return pl.DataFrame({"id": [f"s{n}" for n in range(count)], **columns})


@pytest.mark.parametrize("accidents", [False, True])
def test_a_group_has_the_figures_of_its_variants_alone(accidents: bool) -> None:
    table = products(30, 5, NAMES, 3, accidents)
    pairs, parameters = PairProducts.from_frame(table, NAMES), sizes(NAMES)
    variants = pairs.candidates.variants
    topics = {name: TOPICS[place % 7 % 3] for place, name in enumerate(variants)}
    rows = methods(pairs, bm25=order_as_bm25(pairs), parameters=parameters)
    frame = retrieval_by_group(pairs.candidates, rows, {"topic": topics})
    assert frame["group"].unique(maintain_order=True).to_list()[-1] is None
    best = next(one.component for one in rows if one.name == "best_component")
    for topic in TOPICS:
        ids = [name for name, one in topics.items() if one == topic]
        here = frame.filter(pl.col("group").eq_missing(pl.lit(topic)))
        assert here["variants"].unique().to_list() == [len(ids)]
        assert here["small"].unique().to_list() == [len(ids) < SMALL]
        alone = PairProducts.from_frame(table.filter(pl.col("variant_id").is_in(ids)), NAMES)
        wanted = retrieval(alone, bm25=order_as_bm25(alone), parameters=parameters)
        figures = ["accuracy", "accuracy_low", "accuracy_high", "mrr", "mrr_low", "mrr_high"]
        for method in ("full_gradient", "bm25", "chance"):
            # The same sums, in another order where a group's variants are taken out of all (1e-12: rounding of float64).
            for found, expected in zip(
                here.filter(method=method).select(figures).row(0),
                wanted.filter(method=method).select(figures).row(0),
                strict=True,
            ):
                assert found == pytest.approx(expected, abs=1e-12)
        place = NAMES.index(best)
        right = [alone.ranks[place][n] == 1 for n in range(len(ids))]
        row = here.filter(method="best_component").row(0, named=True)
        assert row["component"] == best and row["accuracy"] == pytest.approx(sum(right) / len(right))


def test_groups_stand_by_size_and_small_ones_are_said() -> None:
    pairs = PairProducts.from_frame(products(16, 4, NAMES, 0), NAMES)
    groups = {name: "few" if place < 4 else "many" for place, name in enumerate(pairs.candidates.variants)}
    frame = retrieval_by_group(pairs.candidates, methods(pairs), {"topic": groups})
    assert frame["group"].unique(maintain_order=True).to_list() == ["many", "few"]
    assert small_groups(frame) == [
        "1 of 2 groups by topic have fewer than 10 variants: their figures say little, whatever they are."
    ]
    assert retrieval_by_group(pairs.candidates, methods(pairs), {}).equals(schemas.RETRIEVAL_BY_GROUP.empty())


def test_what_serves_is_found() -> None:
    columns = of(
        topic=["a", "b", None] * 10,
        constant=["x"] * 30,
        name=[f"n{n}" for n in range(30)],
        year=[1990, 1991, 1992] * 10,
        checked=[True, False, True] * 10,
        pairs=[f"p{n // 2}" for n in range(30)],
    )
    found = grouping(columns, None)
    assert list(found.groups) == ["topic", "checked"]
    assert found.notes == ["grouped by topic, checked (analysis.group_by chooses others)"]
    assert found.groups["topic"]["s2"] is None and found.groups["checked"]["s1"] == "no"
    many = of(**{f"c{n}": ["a", "b"] * 6 for n in range(MOST_COLUMNS + 1)})
    chosen = grouping(many, None)
    assert len(chosen.groups) == MOST_COLUMNS and f"c{MOST_COLUMNS} would serve, too" in chosen.notes[0]
    assert grouping(columns, ()).groups == {} and grouping(schemas.SAMPLE_COLUMNS.empty(), None).groups == {}


def test_numbers_are_groups_on_request_and_many_are_cut_into_quarters() -> None:
    columns = of(year=[1990, 1991] * 50, score=[n / 10 for n in range(100)], share=[0.5, 1.0, None, 0.5] * 25)
    found = grouping(columns, ["year", "score", "share"]).groups
    assert set(found["year"].values()) == {"1990", "1991"}
    assert set(found["share"].values()) == {"0.5", "1", None}
    quarters = list(found["score"].values())
    assert sorted(set(quarters)) == ["0 to 2.4", "2.5 to 4.9", "5 to 7.4", "7.5 to 9.9"]
    assert {quarters.count(one) for one in quarters} == {25}
    assert quarters[0] == "0 to 2.4" and quarters[-1] == "7.5 to 9.9"


def test_no_two_values_are_one_group_since_they_are_long() -> None:
    """Times in milliseconds and in seconds, and fractions with many digits."""
    milliseconds = [1_700_000_000_000 + n for n in range(100)]
    columns = of(at=milliseconds, few=[1234567.0, 1234568.0] * 50, near=[0.12345678, 0.12345679, -0.0, 0.0] * 25)
    found = grouping(columns, ["at", "few", "near"]).groups
    assert {list(found["at"].values()).count(one) for one in found["at"].values()} == {25}
    assert found["at"]["s0"] == "1700000000000 to 1700000000024"
    assert set(found["few"].values()) == {"1234567", "1234568"}
    assert set(found["near"].values()) == {"0.12345678", "0.12345679", "0"}


def test_what_cannot_be_grouped_by_is_refused() -> None:
    columns = of(url=[f"u{n}" for n in range(300)], topic=["a", "b", "c"] * 100)
    with pytest.raises(InputError, match=r"names toppic, which the originals do not have .* \(they have url, topic\)"):
        grouping(columns, ["toppic"])
    with pytest.raises(InputError, match=r"names url, which has 300 values for 300 originals, .* at most 100"):
        grouping(columns, ["topic", "url"])
    with pytest.raises(InputError, match=r"they have nothing there"):
        grouping(schemas.SAMPLE_COLUMNS.empty(), ["topic"])
