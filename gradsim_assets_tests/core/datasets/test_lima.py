"""Originals out of files, and the sentences for what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.errors import InputError
from gradsim_assets_tests.support.sample_files import rows, write


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".arrow"])
def test_files_of_every_kind_give_the_same_samples(suffix: str, tmp_path: Path) -> None:
    found = load_originals(write(tmp_path / f"data{suffix}", rows("a", "b")))
    assert [(s.id, s.user, s.assistant) for s in found] == [("a", "Q a", "A a"), ("b", "Q b", "A b")]


def test_the_arrow_stream_of_a_datasets_folder_is_read(tmp_path: Path) -> None:
    Dataset.from_list(rows("a", "b")).save_to_disk(tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    assert [sample.id for sample in load_originals(str(file))] == ["a", "b"]


def test_the_first_originals_are_taken_in_order(tmp_path: Path) -> None:
    location = write(tmp_path / "o.jsonl", rows("c", "a", "b"))
    assert [sample.id for sample in load_originals(location, 2)] == ["c", "a"]
    assert len(load_originals(location)) == len(load_originals(location, 9)) == 3


def faulty(messages: Any, sample_id: Any = "a") -> list[dict[str, Any]]:
    return [{"id": sample_id, "messages": messages}]


USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (rows("a", "b", "a"), "the id a occurs more than once"),
        (faulty([USER, ANSWER], None), "a sample has no id"),
        (faulty([USER, ANSWER], ""), "a sample has no id"),
        (
            faulty([ANSWER, USER]),
            "sample a has an assistant message before any user message (its roles are assistant, user)",
        ),
        (faulty([USER, USER]), "sample a has no assistant message"),
        (
            faulty([USER, ANSWER, {"role": "bot", "content": "A"}]),
            "sample a has the role bot; roles are system, developer, user",
        ),
        (faulty([USER, ANSWER, USER, {**ANSWER, "content": None}]), "sample a has an empty answer"),
        (
            faulty([USER, {**ANSWER, "tool_calls": "f()"}]),
            "sample a has text as tool_calls, which must be a list of objects",
        ),
        (faulty([USER, {**ANSWER, "content": " \n"}]), "sample a has an empty answer, so it has no response tokens"),
        (faulty([{**USER, "content": ""}, ANSWER]), "sample a has an empty user message"),
        (faulty("hello"), "has text as its messages; messages must be a list of {role, content}"),
        ([{"id": "a", "text": " "}], "sample a has an empty text"),
    ],
)
def test_an_unsound_sample_is_named(content: list[dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", content)
    with pytest.raises(InputError) as caught:
        load_originals(path)
    assert sentence in str(caught.value)
    assert "data.jsonl" in str(caught.value)
