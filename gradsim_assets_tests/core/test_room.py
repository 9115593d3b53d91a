"""A full disk is a sentence, nothing half-written stays, and the work goes on when there is room again.

On a real small file system where mounting is allowed, and everywhere on files that may grow no further (EFBIG).
"""

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.datasets.paraphrasing.answer_store import AnswerStore
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.scratch import Scratch
from gradsim_assets.core.healing import may_heal
from gradsim_assets.core.room import full_disk, lacks_room
from gradsim_assets.core.tables.storage import Tables
from gradsim_assets_tests.conftest import COMMAND, environment_of, gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model

NOISE = pl.DataFrame({"id": np.random.default_rng(0).integers(0, 2**62, 500_000)})  # 4 MB that nothing compresses

SENTENCE = (
    r"no room left \((No space left on device|Disk quota exceeded|File too large)\); free some there, or put GRADSIM"
)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own of 1 MiB, or of as much as a test says."""
    folder, size = tmp_path / "small", getattr(request, "param", "1m")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all room but so many bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    os.truncate(ballast, max(ballast.stat().st_size - leave, 0))
    return ballast


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("frame", [NOISE, NOISE.lazy()], ids=["in memory", "streamed"])
def test_a_table_that_does_not_fit_is_not_there_at_all(small: Path, frame: pl.DataFrame | pl.LazyFrame) -> None:
    tables = Tables(str(small))
    with pytest.raises(InputError, match=rf"^{small}/lima has {SENTENCE}"):
        tables.write(["lima"], frame)
    assert files(small) == []
    tables.write(["lima"], NOISE.head(1000))
    with pytest.raises(InputError, match=SENTENCE):
        tables.write(["lima"], frame)
    assert tables.read(["lima"]).height == 1000  # the old one stays


def test_scratch_files_say_so_before_anything_is_computed(small: Path) -> None:
    with pytest.raises(InputError, match=rf"{small}.* has no room for 0.01 GiB of results"):
        Scratch(small, "pass").array("products", (1000, 1000))
    assert files(small) == []
    scratch = Scratch(small, "pass")
    ballast = fill(small)
    with pytest.raises(InputError, match=SENTENCE):
        scratch.remember_ways({"a": 1})
    ballast.unlink()
    scratch.remember_ways({"a": 1})
    assert scratch.ways() == {"a": 1}


def test_an_answer_that_does_not_fit_leaves_the_store_readable(small: Path) -> None:
    with AnswerStore(small / "store") as store:
        store.write([{"event": "x", "text": "a"}], durable=True)
        ballast = fill(small)
        with pytest.raises(InputError, match=rf"^{small}/store has {SENTENCE}"):
            store.write([{"event": "x", "text": "b" * 100_000}], durable=True)
        ballast.unlink()
        store.write([{"event": "x", "text": "c"}], durable=True)
        lines = store.path.read_text().splitlines()
    assert [line.split('"text": ')[1] for line in lines] == ['"a"}', '"c"}']


def test_a_database_that_is_full_is_no_passing_trouble(small: Path) -> None:
    with closing(sqlite3.connect(small / "a.db")) as connection:
        connection.execute("create table t (x)")
        fill(small)
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("insert into t values (zeroblob(300000))")
            connection.commit()
    sentence = lacks_room(caught.value, small)
    assert sentence is not None and sentence.startswith(f"{small} has no room left (the database says so); free some")
    assert not may_heal(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_cause_is_found_behind_other_errors(number: int, tmp_path: Path) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise RuntimeError("the step failed") from error
    except RuntimeError as error:
        assert os.strerror(number) in str(lacks_room(error, tmp_path))
    assert lacks_room(OSError(errno.EACCES, "no"), tmp_path) is None


def test_a_folder_is_named_only_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    unnamed, named = OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", "/elsewhere/cache/model.bin")
    assert str(full_disk(unnamed)).startswith("the disk that was written to has no room left")
    assert str(full_disk(named)).startswith("/elsewhere/cache has no room left")
    assert full_disk(sqlite3.OperationalError("disk I/O error")) is None  # there is room: the disk is broken


def test_files_that_may_grow_no_further_are_told_alike(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from gradsim_assets.core.errors import InputError\n"
        "from gradsim_assets_tests.core.test_room import NOISE, Tables\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "try: Tables(sys.argv[1]).write(['lima'], NOISE)\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.startswith(f"{tmp_path}/lima has no room left (File too large); free some there"), done.stderr
    assert files(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("small", ["12m"], indirect=True)
@pytest.mark.parametrize("leave", [0, 300_000], ids=["nothing", "some"])
def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(small: Path, tmp_path: Path, leave: int) -> None:
    home, config = small / "home", "[data]\nsamples = 4\nshards = 1\ncandidates = 2\n"
    model = str(save_tiny_model(tmp_path / "model"))
    assert gradsim(home, "run", model, "--only", "datasets", config=config).returncode == 0
    ballast = fill(small, leave)
    command = [*COMMAND, "run", model, "--only", "gradients"]
    failed = subprocess.run(command, env=environment_of(home), capture_output=True, text=True, timeout=600)
    assert failed.returncode in (1, 2) and "Traceback" not in failed.stderr
    assert f"{home}" in failed.stderr and "no room" in failed.stderr
    for path in (home / "tables").rglob("*"):
        assert path.is_dir() or path.name == "data.parquet", path
    ballast.unlink()
    again = gradsim(home, "run", model, "--only", "gradients", config=config)
    assert again.returncode == 0 and "✓ gradients" in again.stdout, again.stderr
    for setting in ("paraphrased", "model_generated"):
        (path,) = (home / "tables/dot_products" / setting).rglob("data.parquet")
        assert pl.read_parquet(path).height > 0
