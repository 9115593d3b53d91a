"""Schemas enforced on whole and on streamed tables."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, LIMA
from gradsim_assets.core.tables.storage import Tables, fingerprint


def test_a_streamed_table_is_made_anew_with_each_read_and_enforced(tmp_path: Path) -> None:
    made = []

    def pieces() -> Iterator[pl.DataFrame]:
        for variant in ("a", "b", "c"):
            made.append(variant)
            rows = {"variant_id": [variant] * 2, "original_id": ["x", "y"], "rank": [1, 2], "score": [2, 1]}
            yield pl.DataFrame(rows).with_columns(forced=False, zero_score=False)

    whole = pl.concat([BM25_CANDIDATES.enforce(piece) for piece in pieces()])
    frame = BM25_CANDIDATES.streamed(pieces)
    assert frame.collect_schema() == whole.schema  # integers of `score` have become floats
    assert frame.collect().equals(whole)
    assert frame.filter(pl.col("rank") == 2).select("variant_id").collect()["variant_id"].to_list() == ["a", "b", "c"]
    made.clear()
    assert frame.head(3).collect().equals(whole.head(3))
    assert made == ["a", "b"]
    tables = Tables(str(tmp_path))
    tables.write(["t"], frame)
    assert tables.read(["t"]).equals(whole)
    assert fingerprint(frame) == fingerprint(whole) == fingerprint(tables.scan(["t"]))

    broken = BM25_CANDIDATES.streamed(lambda: [whole.drop("rank")])
    with pytest.raises(Exception, match="column 'rank' is missing"):
        tables.write(["t"], broken)
    assert tables.read(["t"]).equals(whole)


def test_schemas_order_and_cast_columns() -> None:
    row = {"zero_score": False, "forced": True, "score": 1, "rank": 1, "original_id": "a", "variant_id": "a"}
    frame = pl.DataFrame([row])
    assert BM25_CANDIDATES.enforce(frame).schema == BM25_CANDIDATES.empty().schema


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (pl.DataFrame({"id": ["a"]}), "table lima: column 'messages' is missing"),
        (pl.DataFrame({"id": [None], "messages": [[]]}), "table lima: column 'id' holds 1 null values"),
        (pl.DataFrame({"id": ["a"], "messages": ["hello"]}), "table lima: a column does not have its dtype"),
    ],
)
def test_schemas_refuse_what_does_not_fit(frame: pl.DataFrame, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        LIMA.enforce(frame)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(InputError, match="column 'colour' is not part of its schema"):
        BM25_CANDIDATES.enforce(BM25_CANDIDATES.empty().with_columns(colour=pl.lit("red")))
