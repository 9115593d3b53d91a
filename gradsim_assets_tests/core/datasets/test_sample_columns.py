"""What a file has beside its conversations is kept by id, in whatever format; what no column can hold is left out and said."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradsim_assets.core.datasets.lima import read_originals
from gradsim_assets.core.datasets.originals_source import content_version, originals_version, version_read
from gradsim_assets.core.datasets.sample_columns import sample_columns
from gradsim_assets.core.datasets.sample_files import Source
from gradsim_assets_tests.support.sample_files import rows

TEXTS = {"topic": ["maths", None, "art"], "language": ["en", "fr", "en"]}


def with_columns(**columns: list[Any]) -> list[dict[str, Any]]:
    return [
        {**row, **{name: values[place] for name, values in columns.items()}}
        for place, row in enumerate(rows("a", "b", "c"))
    ]


def as_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def as_json(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def as_parquet(path: Path, content: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


def as_arrow(path: Path, content: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(content)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def as_csv(path: Path, content: list[dict[str, Any]]) -> Path:
    cells = [{**row, "messages": json.dumps(row["messages"])} for row in content]
    pl.DataFrame(cells).write_csv(path)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (as_jsonl, "data.jsonl"),
        (as_json, "data.json"),
        (as_parquet, "data.parquet"),
        (as_arrow, "data.arrow"),
        (as_csv, "data.csv"),
    ],
)
def test_texts_are_kept_from_every_format_and_change_no_sample(write: Any, name: str, tmp_path: Path) -> None:
    bare = read_originals(str(write(tmp_path / f"bare_{name}", rows("a", "b", "c"))))
    found = read_originals(str(write(tmp_path / name, with_columns(**TEXTS))))
    assert found.columns.to_dict(as_series=False) == {"id": ["a", "b", "c"], **TEXTS}
    assert found.samples == bare.samples and bare.columns.columns == ["id"]
    assert "kept beside the samples: topic (2 values), language (2 values)" in found.notes
    assert content_version(found.samples) == content_version(bare.samples)


def test_the_first_samples_have_their_own_columns_alone(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path / "data.jsonl", with_columns(**TEXTS))
    assert read_originals(str(path), 2).columns["topic"].to_list() == ["maths", None]


def test_values_keep_their_kind_and_mixed_ones_become_texts() -> None:
    frame, notes = sample_columns(
        ["a", "b", "c"],
        [
            {"n": 1, "x": 1, "yes": True, "mixed": 1, "day": date(2024, 1, 2), "meta": {"source": "web", "rank": 1}},
            {"n": 2, "x": 2.5, "yes": None, "mixed": "one", "meta": None, "big": 2**70, "nan": float("nan")},
            {"n": None, "x": float("inf"), "yes": False, "mixed": True, "empty": None, "half": "\ud83d!"},
        ],
    )
    assert frame.schema["n"] == pl.Int64 and frame["n"].to_list() == [1, 2, None]
    assert frame["x"].to_list() == [1.0, 2.5, None], "infinity is no number that a figure could be made of"
    assert frame["yes"].to_list() == [True, None, False]
    assert frame["mixed"].to_list() == ["1", "one", "True"]
    assert frame["day"].to_list() == ["2024-01-02", None, None]
    assert frame["meta.source"].to_list() == ["web", None, None] and frame["meta.rank"].to_list() == [1, None, None]
    assert frame["big"].to_list() == [None, str(2**70), None]
    assert frame["nan"].to_list() == [None] * 3 and frame["half"].to_list() == [None, None, "?!"]
    assert "empty" not in frame.columns
    assert notes[0].startswith("kept beside the samples: n (2 values), x (2 values), yes (2 values)")


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_lists_bytes_and_deep_objects_are_left_out_and_said(write: Any, tmp_path: Path) -> None:
    nested = {"tags": [["x"], [], None], "topic": ["t"] * 3, "deep": [{"one": {"two": 3}}] * 3}
    suffix = ".jsonl" if write is as_jsonl else ".parquet"
    found = read_originals(str(write(tmp_path / f"data{suffix}", with_columns(**nested))))
    assert found.columns.columns == ["id", "topic"]
    (said,) = [note for note in found.notes if note.startswith("left out, as lists are: ")]
    assert "tags" in said and "deep" in said


def test_columns_that_samples_are_made_of_are_no_others(tmp_path: Path) -> None:
    """Neither under our names nor under those that a file has for them; a filter's column is."""
    content = [{**row, "tools": None, "system": "s", "split": "train", "name": row["id"]} for row in rows("a", "b")]
    path = as_jsonl(tmp_path / "data.jsonl", content)
    source = Source(str(path), (("id", "name"),), (("split", ("train",)),))
    assert read_originals(source).columns.to_dict(as_series=False) == {"id": ["a", "b"], "split": ["train"] * 2}


def test_a_column_that_is_there_twice_is_nobodys(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows("a", "b"))
    for values in (["x", "y"], ["z", "z"]):
        table = table.append_column("topic", pa.array(values))
    pq.write_table(table, tmp_path / "data.parquet")
    assert read_originals(str(tmp_path / "data.parquet")).columns.columns == ["id"]


def test_a_column_that_is_added_or_edited_is_another_version_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    versions = []
    for topics in (None, ["x", "y", "x"], ["x", "y", "y"]):
        as_jsonl(path, rows("a", "b", "c") if topics is None else with_columns(topic=topics))
        versions.append(originals_version(str(path), 0))
        assert versions[-1] == version_read(read_originals(str(path)))
    assert len(set(versions)) == 3
    assert versions[0] == content_version(read_originals(str(path)).samples), "as before there were other columns"
