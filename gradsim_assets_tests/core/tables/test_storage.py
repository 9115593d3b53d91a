"""Tables on disk: whole or not at all, many partitions as one."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint

FRAME = pl.DataFrame({"id": ["a", "b", "c"], "value": [1.5, None, 3.0]})


def test_partitions_lie_in_hive_folders(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    path = tables.write(["dot_products", "paraphrased"], FRAME, Partition("amd--AMD-OLMo-1B-SFT", "03"))
    assert Path(str(path)) == tmp_path / "dot_products/paraphrased/model=amd--AMD-OLMo-1B-SFT/shard=03/data.parquet"
    assert Path(str(tables.path(["lima"]))) == tmp_path / "lima/data.parquet"


def test_users_read_all_partitions_with_polars_alone(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    for shard in ("00", "01"):
        tables.write(["t"], FRAME, Partition("007", shard))
    frame = pl.read_parquet(tmp_path / "t/**/*.parquet", hive_schema={"model": pl.String(), "shard": pl.String()})
    assert frame.height == 6
    assert frame["model"].unique().to_list() == ["007"]


def test_many_partitions_are_one_lazy_frame_in_the_given_order(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    parts = [Partition("m", shard) for shard in ("01", "00")]
    for number, part in enumerate(parts):
        tables.write(["t"], pl.DataFrame({"n": [number]}), part)
    frame = tables.scan(["t"], parts)
    assert isinstance(frame, pl.LazyFrame)
    assert frame.collect().to_dict(as_series=False) == {"n": [0, 1]}


def test_missing_partitions_are_named(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.write(["t"], FRAME, Partition("m", "00"))
    with pytest.raises(InputError, match="table t lacks model=m shard=01; `gradsim run m` computes what is missing"):
        tables.scan(["t"], [Partition("m", "00"), Partition("m", "01")])
    with pytest.raises(InputError, match="table t lacks model=n; `gradsim run n` computes what is missing"):
        tables.provenance(["t"], Partition("n"))


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"hello"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    Path(str(tables.write(["t"], FRAME))).write_bytes(content)
    for read in (tables.read, tables.provenance):
        with pytest.raises(InputError, match="data\\.parquet is not a whole Parquet file"):
            read(["t"])


def test_provenance_travels_in_the_file(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    path = tables.write(["t"], FRAME, provenance={"revision": "abc", "run_id": "1"})
    assert tables.provenance(["t"]) == {"revision": "abc", "run_id": "1"}
    FRAME.write_parquet(str(path))
    assert tables.provenance(["t"]) == {}


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_partition(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.write(["t"], FRAME)
    # Rows appear on stdout of the writer as it goes, so the kill hits a write that has begun.
    code = f"""
        import sys, time, polars as pl
        from gradsim_assets.core.tables.storage import Tables
        def slow(batch):
            print("writing", flush=True)
            time.sleep(60)
            return batch
        Tables({str(tmp_path)!r}).write(["t"], pl.LazyFrame({{"id": ["new"]}}).map_batches(slow))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline().strip() == "writing"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert tables.read(["t"]).equals(FRAME)


def test_what_a_killed_writer_left_is_swept_away_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    abandoned, at_work = folder / ".data.parquet-abandoned.part", folder / ".data.parquet-at-work.part"
    for part in (abandoned, at_work):
        part.write_bytes(b"PAR1")
    os.utime(abandoned, (0, time.time() - 7200))
    Tables(str(tmp_path)).write(["t"], FRAME)
    assert sorted(path.name for path in folder.iterdir()) == [".data.parquet-at-work.part", "data.parquet"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    with pytest.raises(pl.exceptions.PolarsError):
        tables.write(["t"], pl.LazyFrame({"a": ["x"]}).select(pl.col("a").cast(pl.Int64)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_root_may_be_any_fsspec_location(protocol: str, tmp_path: Path) -> None:
    tables = Tables(f"{protocol}://{tmp_path}")
    tables.write(["t"], FRAME, Partition("m", "00"), {"revision": "abc"})
    assert tables.exists(["t"], Partition("m", "00"))
    assert tables.provenance(["t"], Partition("m", "00")) == {"revision": "abc"}
    assert tables.read(["t"], Partition("m", "00")).equals(FRAME)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.write(["t"], FRAME)
    assert fingerprint(FRAME) == fingerprint(tables.scan(["t"]))
    assert fingerprint(FRAME) == fingerprint(pl.concat([FRAME[:1], FRAME[1:]], rechunk=False))
    changed = [FRAME.reverse(), FRAME.rename({"value": "v"}), FRAME.with_columns(value=pl.col("value").fill_null(0.0))]
    assert len({fingerprint(frame) for frame in (FRAME, *changed)}) == 4


def test_what_comes_again_with_every_variant_of_an_exhaustive_table_is_stored_about_once(tmp_path: Path) -> None:
    """The content, which decides data versions, is the same whatever the pages are."""
    variants, originals, components = 9, 988, 113
    rng = np.random.default_rng(0)
    own = rng.lognormal(size=originals * components)  # an original's lengths, by component
    frame = pl.DataFrame(
        {
            "variant_id": np.repeat(np.arange(variants), own.size),
            "dot_product": rng.normal(size=variants * own.size),
            "original_self": np.tile(own, variants),
        }
    )
    tables = Tables(str(tmp_path))
    path = Path(str(tables.write(["t"], frame)))
    default = tmp_path / "default.parquet"
    frame.write_parquet(default, compression="zstd", row_group_size=1_000_000)
    assert path.stat().st_size < 0.75 * default.stat().st_size  # products alone are half of it, and do not shrink
    assert fingerprint(tables.scan(["t"])) == fingerprint(pl.scan_parquet(default)) == fingerprint(frame)
