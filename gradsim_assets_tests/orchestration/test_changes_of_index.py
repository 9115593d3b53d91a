"""An index of the originals: what it holds, what makes it stale, and what other slices leave: real homes and runs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import gradsim_assets
from gradsim_assets_tests.support.changing_home import ChangingHome
from gradsim_assets_tests.support.edits import forget
from gradsim_assets_tests.support.tiny_models import save_tiny_model

ROUNDING = 2**-11  # of float16, in numbers that are below 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChangingHome:
    forget()
    folder = save_tiny_model(tmp_path / "model", positions=256)
    made = ChangingHome(tmp_path / "home", folder, monkeypatch, {"shards": 1}, index={"dimension": 64, "slices": 2})
    made.write_samples(5)
    made.run("--only", "index")
    return made


def sketches(home: ChangingHome) -> dict[str, np.ndarray]:
    frame = gradsim_assets.scan("gradient_index", home.model_id).collect()
    assert frame["id"].to_list() == [row["id"] for row in home.rows("originals")], "every original once, in order"
    return dict(zip(frame["id"], frame["sketch"].to_numpy().astype(np.float32), strict=True))


def stale(home: ChangingHome) -> dict[str, str]:
    return {part: status for (table, part), status in home.out_of_date().items() if table == "gradient_index"}


def test_an_index_follows_what_it_is_made_from_and_nothing_else(home: ChangingHome) -> None:
    first = sketches(home)
    assert all(one.shape == (64,) and abs(np.linalg.norm(one) - 1) < 1e-3 for one in first.values())
    assert stale(home) == {}

    home.data.update(candidates=2)
    home.configure()
    assert stale(home) == {}

    home.index.update(slices=3)
    home.configure()
    home.run("--only", "index")
    other = sketches(home)
    for name, one in first.items():  # whatever slice an original is in
        assert np.abs(other[name] - one).max() <= ROUNDING

    home.index.update(slices=2)
    home.configure()
    assert set(stale(home)) == {"00", "01"}, "those of three slices hold others"
    home.run("--only", "index")
    before = home.now()
    home.run("--only", "gradients")
    assert not home.runs_since(before, "gradient_index")
    left = sorted(place for place in home.tables() if place.startswith("gradient_index"))
    assert [place.partition("slice=")[2][:2] for place in left] == ["00", "01"], "what three slices left is gone"

    home.index.update(dimension=128)
    home.configure()
    assert set(stale(home)) == {"00", "01"}
    rows = home.rows("originals")
    rows[-1]["messages"][1]["content"] += " And more."
    home.write("originals", rows)
    home.run("--only", "index")
    assert all(one.shape == (128,) for one in sketches(home).values()) and stale(home) == {}


def test_a_damaged_index_is_refused(home: ChangingHome) -> None:
    (path,) = (home.home / "tables" / "gradient_index").glob("*/slice=00/*.parquet")
    frame = pl.read_parquet(path)
    zeros = pl.Series("sketch", np.zeros((frame.height, 64), np.float16))
    from gradsim_assets.core.tables import soundness

    assert soundness.sketch_findings(frame, 64) == []
    (said,) = soundness.sketch_findings(frame.with_columns(zeros), 64)
    assert said == f"{frame.height} sketches are not of length 1, such as that of {frame['id'][0]}"
    assert soundness.sketch_findings(frame.with_columns(zeros, length=pl.lit(0.0)), 64) == []
    broken = pl.Series("sketch", np.full((frame.height, 64), np.nan, np.float16))
    assert len(soundness.sketch_findings(frame.with_columns(broken), 64)) == 1
    assert soundness.sketch_findings(frame, 128) == [
        "sketches are Array(Float16, shape=(64,)), and have 128 numbers each"
    ]


def test_an_index_that_nobody_asked_for_is_not_made(home: ChangingHome) -> None:
    home.index.clear()
    home.configure()
    done = home.command("run", home.model_id, "--only", "index")
    assert done.exit_code == 2 and "put [index] into gradsim.toml first" in done.output
    assert stale(home) == {}
