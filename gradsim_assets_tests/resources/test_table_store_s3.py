"""Tables in S3-compatible storage, against a real server: GRADSIM_TEST_S3=s3://bucket/prefix, with AWS_ENDPOINT_URL and the
keys in their usual variables. The tests write under the prefix and remove what they wrote."""

import contextlib
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest
from upath import UPath

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.audit import read_audited
from gradsim_assets.core.tables.schemas import LIMA
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.orchestration.file_sizes import size_recorded
from gradsim_assets.resources.table_store import ParquetIOManager, TableStore

pytestmark = pytest.mark.skipif("GRADSIM_TEST_S3" not in os.environ, reason="GRADSIM_TEST_S3 names no bucket")

FRAME = pl.DataFrame({"id": ["a", "b", "c"], "value": [1.5, None, 3.0]})
KEY = ["dot_products", "paraphrased"]


@pytest.fixture
def tables() -> Iterator[Tables]:
    root = f"{os.environ['GRADSIM_TEST_S3'].rstrip('/')}/{uuid.uuid4().hex}"
    yield Tables(root)
    with contextlib.suppress(FileNotFoundError):  # nothing was written
        UPath(root).fs.rm(root, recursive=True)


def test_partitions_are_written_whole_and_read_as_one(tables: Tables) -> None:
    parts = [Partition("amd--AMD-OLMo-1B-SFT", shard) for shard in ("01", "00")]
    for number, part in enumerate(parts):
        assert not tables.exists(KEY, part)
        tables.write(KEY, FRAME.with_columns(n=pl.lit(number)), part, {"revision": "abc"})
        assert tables.exists(KEY, part)
    assert str(tables.path(KEY, parts[1])) == (
        f"{tables.root}/dot_products/paraphrased/model=amd--AMD-OLMo-1B-SFT/shard=00/data.parquet"
    )
    frame = tables.scan(KEY, parts)
    assert isinstance(frame, pl.LazyFrame)
    assert frame.collect().equals(pl.concat([FRAME.with_columns(n=pl.lit(0)), FRAME.with_columns(n=pl.lit(1))]))
    assert tables.provenance(KEY, parts[0]) == {"revision": "abc"}
    assert tables.found(KEY) == tables.found(KEY, parts[0].model) == [parts[1], parts[0]]
    # Written again: in place of the old one, and seen at once.
    tables.write(KEY, FRAME.head(1), parts[0])
    assert tables.read(KEY, parts[0]).equals(FRAME.head(1))
    assert tables.provenance(KEY, parts[0]) == {}


def test_what_another_process_writes_and_removes_is_seen(tables: Tables) -> None:
    """A webserver or code server lives for weeks: no listing may be remembered."""
    there, later = Partition("m", "00"), Partition("m", "01")
    tables.write(KEY, FRAME, there)
    assert tables.found(KEY) == [there] and not tables.exists(KEY, later)
    code = f"""
        import polars as pl
        from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.tables.storage import Tables
        tables = Tables({tables.root!r})
        tables.write({KEY!r}, pl.DataFrame({{"id": ["new"]}}), Partition("m", "01"))
        tables.path({KEY!r}, Partition("m", "00")).unlink()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)
    assert tables.exists(KEY, later) and not tables.exists(KEY, there)
    assert tables.found(KEY) == [later]
    assert tables.read(KEY, later)["id"].to_list() == ["new"]


def test_faults_are_named(tables: Tables) -> None:
    tables.write(KEY, FRAME, Partition("m", "00"))
    with pytest.raises(InputError, match="lacks model=m shard=01; `gradsim run m` computes what is missing"):
        tables.scan(KEY, [Partition("m", "00"), Partition("m", "01")])
    with pytest.raises(InputError, match="table lima holds nothing; materialise it first"):
        tables.found(["lima"])
    tables.path(KEY, Partition("m", "00")).write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"s3://.*data\.parquet is not a whole Parquet file"):
        tables.read(KEY, Partition("m", "00"))
    assert read_audited(tables, KEY, Partition("m", "00"))[0] is None


def test_a_place_that_cannot_be_had_is_named(tables: Tables) -> None:
    with pytest.raises(InputError, match=r"tables in s3://\S+-none/x cannot be had \(.*bucket.*\); check"):
        Tables(f"s3://{UPath(tables.root).drive}-none/x").write(KEY, FRAME)
    code = f"""
        from gradsim_assets.core.tables.storage import Tables
        Tables({tables.root!r}).exists({KEY!r})
    """
    refused = [sys.executable, "-c", textwrap.dedent(code)]
    wrong = {**os.environ, "AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run(refused, env=wrong, capture_output=True, text=True, check=False, timeout=120)
    assert f"InputError: tables in {tables.root} cannot be had (Forbidden); check that the bucket" in done.stderr
    without = [sys.executable, "-c", "import sys; sys.modules['s3fs'] = None\n" + textwrap.dedent(code)]
    done = subprocess.run(without, capture_output=True, text=True, check=False, timeout=120)
    assert "InputError: tables in s3://" in done.stderr and "install gradsim[s3]" in done.stderr


def test_more_rows_than_one_part(tables: Tables) -> None:
    """An upload in several parts, from a lazy frame that is streamed."""
    rows = 3_000_000
    lazy = pl.LazyFrame({"n": pl.Series(range(rows))}).with_columns(hash=pl.col("n").hash(seed=1))
    path = tables.write(["t"], lazy)
    assert path.stat().st_size > 16 * 2**20
    assert tables.read(["t"]).equals(lazy.collect())


def test_assets_hand_tables_on(tables: Tables) -> None:
    messages = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]

    @dg.asset
    def lima() -> pl.DataFrame:
        return LIMA.enforce(pl.DataFrame({"id": ["x"], "messages": [messages]}))

    @dg.asset
    def count(lima: pl.DataFrame) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"rows": lima.height})

    store = TableStore(root=tables.root)
    result = dg.materialize([lima, count], resources={"io_manager": ParquetIOManager(store=store)})
    (written,) = result.asset_materializations_for_node("lima")
    assert written.metadata["path"].value == f"{tables.root}/lima/data.parquet"
    assert size_recorded(written.metadata["size_bytes"].value) == tables.path(["lima"]).stat().st_size
    assert result.asset_materializations_for_node("count")[0].metadata["rows"].value == 1
