"""Originals and paraphrases from files, and the sentences for what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import Dataset

from gradsim_assets.core.errors import InputError
from gradsim_assets.resources.sample_sources import SampleSources


def rows(*ids: str) -> list[dict[str, Any]]:
    return [
        {"id": i, "messages": [{"role": "user", "content": f"Q {i}"}, {"role": "assistant", "content": f"A {i}"}]}
        for i in ids
    ]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pl.DataFrame(content).write_parquet(path)
    elif path.suffix == ".arrow":
        pl.DataFrame(content).write_ipc(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


def sources(originals: str = "demo", paraphrases: str = "demo", samples: int = 0) -> SampleSources:
    return SampleSources(originals=originals, paraphrases=paraphrases, samples=samples)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".arrow"])
def test_files_of_every_kind_give_the_same_samples(suffix: str, tmp_path: Path) -> None:
    found = sources(write(tmp_path / f"data{suffix}", rows("a", "b"))).load_originals()
    assert [(s.id, s.user, s.assistant) for s in found] == [("a", "Q a", "A a"), ("b", "Q b", "A b")]


def test_the_arrow_stream_of_a_datasets_folder_is_read(tmp_path: Path) -> None:
    Dataset.from_list(rows("a", "b")).save_to_disk(tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    assert [sample.id for sample in sources(str(file)).load_originals()] == ["a", "b"]


def test_the_demo_has_a_paraphrase_for_every_original() -> None:
    demo = sources()
    assert [s.id for s in demo.load_originals()] == [s.id for s in demo.load_paraphrases()]


def test_a_limit_keeps_the_first_originals_and_their_paraphrases(tmp_path: Path) -> None:
    originals = write(tmp_path / "o.jsonl", rows("a", "b", "c", "d"))
    paraphrases = write(tmp_path / "p.jsonl", rows("d", "b", "a"))
    limited = sources(originals, paraphrases, samples=2)
    assert [s.id for s in limited.load_originals()] == ["a", "b"]
    assert [s.id for s in limited.load_paraphrases()] == ["a", "b"]


def test_the_column_of_paraphrased_messages_is_preferred(tmp_path: Path) -> None:
    (original,) = rows("a")
    reworded = {**original, "paraphrased_messages": rows("other")[0]["messages"]}
    found = sources(write(tmp_path / "o.jsonl", [original]), write(tmp_path / "p.jsonl", [reworded])).load_paraphrases()
    assert found[0].user == "Q other"


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
            faulty([USER, ANSWER, USER, ANSWER]),
            "sample a is not single-turn (its roles are user, assistant, user, assistant)",
        ),
        (faulty([ANSWER, USER]), "sample a is not single-turn"),
        (faulty([USER, {**ANSWER, "content": " \n"}]), "sample a has an empty answer, so it has no response tokens"),
        (faulty([{**USER, "content": ""}, ANSWER]), "sample a has an empty user message"),
        (faulty("hello"), "column messages must hold lists of {role, content}"),
        ([{"id": "a", "text": "hello"}], "needs the columns id and messages; it has id, text"),
    ],
)
def test_an_unsound_sample_is_named(content: list[dict[str, Any]], sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", content)
    with pytest.raises(InputError) as caught:
        sources(path).load_originals()
    assert sentence in str(caught.value)
    assert "data.jsonl" in str(caught.value)


def test_a_variant_needs_its_original(tmp_path: Path) -> None:
    originals, paraphrases = write(tmp_path / "o.jsonl", rows("a")), write(tmp_path / "p.jsonl", rows("a", "x"))
    with pytest.raises(InputError, match="variant x has no original of the same id"):
        sources(originals, paraphrases).load_paraphrases()


def test_paraphrases_beyond_the_limit_are_told(tmp_path: Path) -> None:
    originals, paraphrases = write(tmp_path / "o.jsonl", rows("a", "b")), write(tmp_path / "p.jsonl", rows("b"))
    with pytest.raises(InputError, match="holds no paraphrase of the first 1 originals"):
        sources(originals, paraphrases, samples=1).load_paraphrases()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.parquet", None, "does not exist"),
        ("data.csv", b"id,messages\n", "is of no known kind; use a .parquet, .jsonl or .arrow file"),
        ("bad.parquet", b"not parquet at all", "cannot be read as parquet"),
        ("bad.jsonl", b'{"id": "a", "messages": [', "cannot be read as jsonl"),
        ("bad.arrow", b"ARROW1 and nothing more", "cannot be read as arrow"),
    ],
)
def test_a_missing_or_damaged_file_is_named(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        sources(str(path)).load_originals()
    assert name in str(caught.value) and sentence in str(caught.value)


def test_demo_paraphrases_fit_the_demo_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='data.paraphrases = "demo" fits data.originals = "demo" only'):
        sources(write(tmp_path / "o.jsonl", rows("a"))).load_paraphrases()
