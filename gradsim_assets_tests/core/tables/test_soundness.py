"""What makes a table unsound is found and named; a sound one passes."""

from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.audit import read_audited
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS
from gradsim_assets.core.tables.storage import Partition, Tables

KEY, PLACE = ["dot_products", "paraphrased"], Partition("m", "00")
PAIRS = pl.DataFrame({"variant_id": ["a", "a", "b", "b"], "original_id": ["a", "b", "b", "a"]})


def products() -> pl.DataFrame:
    """Two variants, two candidates, two components; an expert got no gradient from variant a."""
    both = pl.concat([PAIRS.with_columns(component=pl.lit(name)) for name in ("w", "expert")])
    dead = (pl.col("variant_id") == "a") & (pl.col("component") == "expert")
    return DOT_PRODUCTS.enforce(
        both.with_columns(
            dot_product=pl.when(dead).then(0.0).otherwise(1.5),
            variant_self=pl.when(dead).then(0.0).otherwise(2.0),
            original_self=pl.lit(3.0),
        )
    )


def every_finding(frame: pl.DataFrame) -> str:
    found = soundness.schema_findings(DOT_PRODUCTS, frame)
    found += soundness.duplicate_findings(DOT_PRODUCTS, frame) + soundness.finite_findings(frame)
    found += soundness.pair_findings(frame, PAIRS, "component") + soundness.product_findings(frame)
    return "; ".join(found + soundness.agreement_findings({"00": frame}))


def row(number: int, column: str, value: float | str | None) -> pl.DataFrame:
    frame = products().with_row_index()
    changed = pl.when(pl.col("index") == number).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
    return frame.with_columns(changed).drop("index")


def test_a_sound_table_passes_with_a_component_that_got_no_gradient() -> None:
    assert every_finding(products()) == ""


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (products().drop("component").with_columns(component=pl.lit("w")), "8 rows are not 4 pairs x 1"),
        (products()[1:], "7 rows are not 4 pairs x 2"),
        (products().filter(pl.col("variant_id") == "a"), "2 of 4 pairs are missing, such as (b, a)"),
        (row(0, "variant_id", "z"), "1 pairs are not among the candidates, such as (z, a)"),
        (pl.concat([products(), products()[:1]]), "1 keys occur more than once, such as (a, a, w)"),
        (row(0, "dot_product", float("nan")), "column dot_product holds 1 values that are NaN or infinite"),
        (row(0, "dot_product", 2.46), "exceeds the product of the two norms in 1 rows, such as (a, a, w)"),
        (row(4, "dot_product", 1e-6), "exceeds the product of the two norms in 1 rows, such as (a, a, expert)"),
        (row(0, "variant_self", -1.0), "variant_self is negative in 1 rows, such as (a)"),
        (row(0, "original_self", 3.01), "self products of originals differ, such as a in w: 3 to 3.01"),
        (row(0, "dot_product", None), "column dot_product holds 1 null values"),
        (products().with_columns(variant_self=pl.lit(0.0)), "2 variants have a gradient of zero in every component"),
    ],
)
def test_what_is_unsound_is_named(frame: pl.DataFrame, said: str) -> None:
    assert said in every_finding(frame)


def test_missing_and_doubtful_paraphrases_are_told_apart() -> None:
    text = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d", "e"],
            "messages": [text, None, text, None, None],
            "flag": [None, "user: cut", "user: cut", "user: cut", None],
        }
    )
    assert soundness.flag_findings(frame) == [
        "2 paraphrases are missing 'user: cut', such as b",
        "1 paraphrases are flagged 'user: cut', such as c",
    ]
    assert soundness.unexplained_findings(frame) == ["1 missing paraphrases have no flag that says why, such as e"]
    assert soundness.unexplained_findings(frame[:4]) == []


def test_rounding_is_no_finding() -> None:
    # sqrt(2 * 3) and fp32's 1e-5 more, as two identical gradients may come out.
    assert every_finding(row(0, "dot_product", 6**0.5 * (1 + 1e-5))) == ""
    assert every_finding(row(0, "original_self", 3.0 * (1 + 1e-5))) == ""


def test_missing_and_unknown_columns_and_dtypes_are_named() -> None:
    frame = products().drop("variant_self").with_columns(colour=1, dot_product=pl.col("dot_product").cast(pl.Float32))
    said = "; ".join(soundness.schema_findings(DOT_PRODUCTS, frame))
    assert "column variant_self is missing" in said
    assert "column colour is not part of the schema" in said
    assert "column dot_product is Float32, not Float64" in said


def test_one_original_in_two_partitions_must_agree() -> None:
    other = products().with_columns(original_self=pl.lit(3.1))
    assert "(partitions 00, 01)" in soundness.agreement_findings({"00": products(), "01": other})[0]
    assert soundness.agreement_findings({"00": products(), "01": products()}) == []


def test_components_are_those_of_the_model() -> None:
    assert (
        soundness.component_findings(products(), ["w", "expert"])
        == soundness.component_findings(products(), None)
        == []
    )
    assert soundness.component_findings(products(), ["w", "expert", "bias"]) == [
        "1 components of the model are missing, such as bias"
    ]
    assert soundness.component_findings(products(), ["w"]) == ["1 components are not the model's, such as expert"]


def test_drift_is_said_beyond_the_limit_and_never_of_chance() -> None:
    before = {"full_gradient": 0.9, "bm25": 0.6, "chance": 0.2}
    found = soundness.drift({"full_gradient": 0.7, "bm25": 0.55, "chance": 0.5, "new": 0.1}, before)
    assert found == ["accuracy of full_gradient went from 0.900 to 0.700"]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    tables = Tables(str(tmp_path))
    tables.write(KEY, products(), PLACE, {"table": "dot_products/paraphrased", "partition": str(PLACE)})
    return tables


def test_a_file_of_ours_passes(tables: Tables) -> None:
    frame, found = read_audited(tables, KEY, PLACE)
    assert found == []
    assert frame is not None and frame.equals(products())


def test_variants_in_two_shards_and_in_none_are_named() -> None:
    assert soundness.shard_findings({"00": ["a"], "01": ["b"]}, ["a", "b"]) == []
    assert soundness.shard_findings({"00": ["a", "b"], "01": ["b"]}, None) == [
        "1 variants are in several shards, such as b in 00 and 01"
    ]
    assert soundness.shard_findings({"00": ["a"]}, ["a", "b", "c"]) == ["2 variants are in no shard, such as b"]
    assert soundness.shard_findings({"00": ["a"]}, ["a", "b"], dropped=1) == [], "the context policy left it out"


def test_a_truncated_file_is_named(tables: Tables) -> None:
    path = Path(str(tables.path(KEY, PLACE)))
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is not a whole Parquet file" in read_audited(tables, KEY, PLACE)[1][0]


def test_damage_between_header_and_footer_is_named(tables: Tables) -> None:
    path = Path(str(tables.path(KEY, PLACE)))
    content = bytearray(path.read_bytes())
    content[4:300] = b"\xff" * 296  # pages, not the footer
    path.write_bytes(bytes(content))
    frame, found = read_audited(tables, KEY, PLACE)
    assert frame is None
    assert f"{path} is corrupted" in found[0]


def test_a_foreign_file_is_named(tables: Tables) -> None:
    path = Path(str(tables.path(KEY, PLACE)))
    products().write_parquet(path)
    assert f"{path} is foreign" in read_audited(tables, KEY, PLACE)[1][0]


def test_a_file_of_another_partition_is_named(tables: Tables) -> None:
    elsewhere = tables.path(KEY, Partition("m", "01"))
    Path(str(elsewhere)).parent.mkdir()
    Path(str(elsewhere)).write_bytes(Path(str(tables.path(KEY, PLACE))).read_bytes())
    said = read_audited(tables, KEY, Partition("m", "01"))[1][0]
    assert f"{elsewhere} belongs elsewhere: it was written as dot_products/paraphrased model=m shard=00" in said


def test_a_lost_file_is_named(tables: Tables) -> None:
    Path(str(tables.path(KEY, PLACE))).unlink()
    assert (
        "is missing although its partition was materialised; `gradsim run m` computes it again."
        in read_audited(tables, KEY, PLACE)[1][0]
    )
