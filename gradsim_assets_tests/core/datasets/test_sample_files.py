"""What is read out of files of samples as it stands there, and the sentence for everything else."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
from gradsim_assets.core.errors import InputError
from gradsim_assets_tests.support.sample_files import rows, write

SUFFIXES = [".parquet", ".jsonl", ".arrow"]


def ids(path: Path) -> list[str]:
    return [sample.id for sample in load_originals(str(path))]


def sample(user: Any = "Q", answer: Any = "A", sample_id: Any = "a") -> dict[str, Any]:
    return {
        "id": sample_id,
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
    }


def lines(*objects: Any) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


def refusal(path: Path, content: bytes | None = None) -> str:
    """The sentence that a file is refused with; it is one, and names the file."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_originals(str(path))
    said = str(caught.value)
    assert path.name in said and said.isprintable() and said.endswith(".")
    return said


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["train[1]", "wh?t", "all*", "{a,b}", "model=x", "%20 ü#1"])
def test_a_path_is_a_path_and_no_pattern(name: str, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "exp[a]"
    folder.mkdir()
    for sibling in ("train1", "what", "allx", "a", "b"):
        write(folder / f"{sibling}{suffix}", rows("wrong"))
    write(folder / f"{name}{suffix}", rows("right"))
    assert ids(folder / f"{name}{suffix}") == ["right"]
    assert "does not exist" in refusal(folder / f"trai[n]1{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_are_what_was_written(suffix: str, tmp_path: Path) -> None:
    texts = [
        "zero \0 inside",
        " spaces \t and \r\n ends\n",
        "\u2028\u0085\ufeff",
        "e\u0301 é 👩‍👩‍👧",
        '"\\u0041\\',
        "\ufffd",
        "\x7f\x1b[0m",
    ]
    path = write(tmp_path / f"data{suffix}", [sample(text, text * 2, str(i)) for i, text in enumerate(texts)])
    found = load_originals(path)
    assert [one.user for one in found] == texts
    assert [one.assistant for one in found] == [text * 2 for text in texts]


@pytest.mark.parametrize(
    "row",
    [
        sample("cut emoji \ud83d here"),
        sample(answer="\udc00"),
        sample([{"type": "text", "text": "\udfff"}]),
        sample(sample_id="a\ud800"),
    ],
)
def test_half_a_character_is_named_and_never_replaced(row: dict[str, Any], tmp_path: Path) -> None:
    said = refusal(tmp_path / "data.jsonl", lines(rows("first")[0], row))
    assert "line 2" in said and "half of a character" in said and "\\ud" in said


def test_two_halves_of_a_character_are_one(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(lines(sample("\U0001f600")))
    assert b"\\ud83d\\ude00" in (tmp_path / "data.jsonl").read_bytes()
    assert load_originals(str(tmp_path / "data.jsonl"))[0].user == "\U0001f600"


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_content_in_parts_of_text_is_joined(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"data{suffix}", [sample(parts("one ", "two"), parts("A"))])
    assert [(one.user, one.assistant) for one in load_originals(path)] == [("one two", "A")]


def test_a_file_may_mix_texts_and_parts(tmp_path: Path) -> None:
    mixed = [sample(["plain", {"type": "text", "text": " part"}, {"text": "!"}]), sample("plain", parts("B"), "b")]
    (tmp_path / "data.jsonl").write_bytes(lines(*mixed))
    found = load_originals(str(tmp_path / "data.jsonl"))
    assert [(one.user, one.assistant) for one in found] == [("plain part!", "A"), ("plain", "B")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (sample(answer={"answer": 1}), "sample a has an object as the content of its assistant message"),
        (sample(1), "sample a has a number as the content of its user message"),
        (sample(answer=True), "sample a has true as the content of its assistant message"),
        (sample([{"type": "image_url", "image_url": {}}]), "has an object of type image_url among the parts of its user"),
        (sample(["Q", 7]), "has a number among the parts of its user message"),
        (sample(["Q", None]), "has null among the parts of its user message"),
        ({"id": "a", "messages": "hello"}, "sample a has text as its messages; messages must be a list of {role, content}"),
        ({"id": "a", "messages": ["Q", "A"]}, "sample a has text among its messages"),
        ({"id": "a", "messages": [{"from": "human", "value": "Q"}]}, "sample a has a message of {from, value}"),
        (sample(sample_id=1.5), "a sample has no id (found a number)"),
        (sample(sample_id=True), "a sample has no id (found true)"),
        (sample(sample_id=["a"]), "a sample has no id (found a list)"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named_with_its_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    found = refusal(tmp_path / "data.jsonl", b"\n" + lines(rows("first")[0]) + b"\r\n" + lines(row))
    assert said in found and "data.jsonl, line 4: " in found


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_what_is_no_text_is_named_with_its_row(suffix: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / f"data{suffix}", [sample(1, 2)]))
    assert f"data{suffix}, row 1: sample a has a number as the content of its user message" in refusal(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_numbers_are_ids(suffix: str, tmp_path: Path) -> None:
    originals = write(tmp_path / f"o{suffix}", [sample(sample_id=number) for number in (0, 7, -1, 2**53 + 1)])
    texts = write(tmp_path / "p.jsonl", [sample(sample_id=text) for text in ("7", "0")])
    assert ids(Path(originals)) == ["0", "7", "-1", "9007199254740993"]
    assert [one.id for one in load_paraphrases(texts, originals)] == ["0", "7"]


def test_a_number_and_a_text_are_the_same_id(tmp_path: Path) -> None:
    assert "line 2: the id 7 occurs more than once" in refusal(
        tmp_path / "o.jsonl", lines(sample(sample_id=7), sample(sample_id="7"))
    )


def test_marks_line_ends_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    first, second = (json.dumps(row).encode() for row in rows("a", "b"))
    mark = b"\xef\xbb\xbf"
    path = tmp_path / "data.jsonl"
    for content in (
        mark + first + b"\n" + second,
        first + b"\r\n\r\n" + second + b"\r\n",
        b"\n \t\n" + first + b"\n\n\n" + second + b"\n\n",
        mark + first + b"\n" + mark + second + b"\n",  # two files that were joined
        b"  " + first + b"  \n\t" + second,
    ):
        path.write_bytes(content)
        assert ids(path) == ["a", "b"]


ROW = json.dumps(rows("a")[0]).encode()


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (ROW + b"\n" + ROW[:-20], 2, "is no whole JSON object (Expecting property name"),
        (ROW + b"\n<<<<<<< HEAD\n", 2, "it begins with '<<<<<<< HEAD'"),
        (ROW + b"\n" + ROW + ROW + b"\n", 2, "is no whole JSON object (Extra data at column"),
        (ROW + b"\n\n[1, 2]\n", 3, "holds a list and no object"),
        (ROW + b"\nnull\n", 2, "holds null and no object"),
        (ROW + b"\n'a'\n", 2, "is no whole JSON object"),
        (ROW + b"\n" + ROW.replace(b"Q a", b"\xe9t\xe9"), 2, "is no text in UTF-8 (byte 0xe9 at column"),
        (ROW.replace(b"Q a", b"Q\ta"), 1, "is no whole JSON object (Invalid control character"),
        (ROW.replace(b"Q a", b"\xed\xa0\xbd"), 1, "is no text in UTF-8"),
        (ROW + b"\n" + b"[" * 100_000, 2, "is nested too deep"),
        (ROW + b"\n" + ROW.replace(b'"id"', b'"id": "x", "id"'), 2, "names id twice"),
        (ROW.replace(b'"content"', b'"content": "x", "content"', 1), 1, "names content twice"),
        (ROW + b"\n\0\0\0\0\n", 2, "is no whole JSON object"),
    ],
)
def test_a_torn_or_foreign_line_is_named_by_its_number(content: bytes, line: int, said: str, tmp_path: Path) -> None:
    found = refusal(tmp_path / "data.jsonl", content)
    assert f"data.jsonl, line {line} " in found and said in found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.jsonl", b"", "is empty; write it anew"),
        ("data.parquet", b"", "is empty; write it anew"),
        ("data.jsonl", b" \n\n", "holds blank lines alone"),
        ("data.jsonl", b"[" + ROW + b"]", "holds a JSON array; rename it so that it ends in .json"),
        ("data.json", b"[\n" + ROW + b",\n" + ROW, "line 3 is no JSON (Expecting"),
        ("data.json", b"[" + ROW + b", 3]", "entry 2 holds a number and no object"),
        ("data.json", b"[" + ROW + b",\n\xff]", "line 2 is no text in UTF-8"),
        ("data.json", json.dumps(rows("a")[0], indent=1).encode(), "is one JSON document over several lines"),
        ("data.jsonl", json.dumps(rows("a")[0], indent=1).encode(), "is one JSON document over several lines"),
        ("data.json", ROW + b"\n" + ROW, "holds JSON lines; rename it so that it ends in .jsonl"),
        ("data.parquet", b"id a b", "is no file of the kind parquet"),
        ("data.csv", b"id,messages\na,b\n", "row 1: messages is no JSON (Expecting value"),
        ("data.csv", b"id,messages\na,\"[{'role': 'user'}]\"\n", "as lists are not that were written by Python itself"),
        ("data.csv", b"id,prompt,completion\na,b,c,d,e\n", "cannot be read as CSV"),
        ("data.csv", b"id,prompt,completion\na,\xff,c\n", "cannot be read as CSV"),
        ("data.csv", b"id,prompt,prompt,completion\na,b,c,d\n", "has 2 columns prompt; keep one of them"),
        ("data.jsonl", b"id;user;assistant\na;b;c\n", "holds CSV; rename it so that it ends in .csv"),
        ("data.tsv", b"x\ty\n", "it has x, y. Say by [data.columns]"),
        ("data.jsonl", gzip.compress(ROW, mtime=0), "holds JSON lines; rename it so that it ends in .jsonl.gz"),
        ("data.jsonl.gz", gzip.compress(ROW * 99, mtime=0)[:-9], "cannot be unpacked (EOFError"),
        ("data.jsonl.zst", b"\x28\xb5\x2f\xfd\x04", "cannot be unpacked"),
        ("data.jsonl.gz", gzip.compress(gzip.compress(ROW)), "is compressed twice; unpack it"),
        ("data.parquet.gz", gzip.compress(b"PAR1", mtime=0), "holds Parquet within gz; unpack it"),
        ("data.jsonl.bz2", b"BZh9", "is compressed by bzip2; unpack it"),
        ("data.zip", b"PK\x03\x04\x14", "is a zip archive"),
        ("data.jsonl", ROW.decode().encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("data.jsonl", ROW.decode().encode("utf-16-le"), "is no text in UTF-8"),
        ("data.jsonl", b"<!DOCTYPE html>\n<title>Sign in</title>", "is a page of HTML or XML; download the file itself"),
        ("data.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of git-lfs"),
        ("notes.txt", b"hello", "is of no known kind; use a .parquet, .jsonl, .json, .csv or .arrow file"),
        ("data.jsonl", lines({"id": "a", "chat": 1}), "(messages; conversations; instruction and output;"),
        ("data.jsonl", lines({"id": "a", "chat": 1}), "it has id, chat. Say by [data.columns] in which columns they are"),
        ("bad.arrow", b"ARROW1 and nothing more", "cannot be read as an Arrow file"),
        ("bad.parquet", b"PAR1 and nothing more", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_another_format_is_named_with_its_mend(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / name, content)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    assert "is a folder, and none that `datasets` has saved" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "none.parquet")
    assert "cannot be looked at" in refusal(tmp_path / f"{'x' * 300}.jsonl")
    with pytest.raises(InputError, match="s3://bucket/a.jsonl is an address and no path; download the file"):
        load_originals("s3://bucket/a.jsonl")


def test_a_file_with_another_ending_than_its_format_is_told_the_right_one(tmp_path: Path) -> None:
    for suffix, right in ((".parquet", ".arrow"), (".arrow", ".parquet"), (".parquet", ".jsonl")):
        path = Path(write(tmp_path / f"data{right}", rows("a"))).rename(tmp_path / f"data{suffix}")
        assert f"rename it so that it ends in {right}" in refusal(path)


def test_a_column_that_gets_its_type_late_is_of_no_concern(tmp_path: Path) -> None:
    others: list[Any] = [None] * 180 + [1, "text", {"x": 1}, [2], 2**70, float("nan"), {"x": "text"}]
    path = tmp_path / "data.jsonl"
    path.write_bytes(lines(*({**sample(sample_id=i), "score": other} for i, other in enumerate(others))))
    assert ids(path) == [str(i) for i in range(len(others))]


OTHERS = {
    "interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "sparse union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["a"])]),
    "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"])),
    "zone that nobody knows": pa.array([1], pa.timestamp("us", "Nowhere/Land")),
    "offset as zone": pa.array([1], pa.timestamp("us", "+05:30")),
    "wide decimal": pa.array([Decimal(1)], pa.decimal256(60, 2)),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "empty struct": pa.array([{}], pa.struct([])),
    "dictionary": pa.array([1]).dictionary_encode(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_column_that_nobody_asked_for_makes_no_file_fail(name: str, tmp_path: Path) -> None:
    base = pa.Table.from_pylist(rows("a"))
    table = base.add_column(0, name, OTHERS[name])
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    assert ids(tmp_path / "file.arrow") == ids(tmp_path / "stream.arrow") == ["a"]
    try:
        pq.write_table(table, tmp_path / "data.parquet")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return  # Parquet has no such columns
    assert ids(tmp_path / "data.parquet") == ["a"]


def test_texts_may_be_held_in_any_way(tmp_path: Path) -> None:
    """Large, as views, as a dictionary; what polars writes, and what pyarrow does."""
    base = pa.Table.from_pylist([sample("ä"), sample("ö", sample_id="b")])
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = base.set_column(0, "id", base["id"].cast(kind))
        with pa.ipc.new_stream(tmp_path / "data.arrow", table.schema) as writer:
            writer.write_table(table)
        assert ids(tmp_path / "data.arrow") == ["a", "b"]
    frame = pl.from_arrow(base)
    assert isinstance(frame, pl.DataFrame)
    for compression in ("uncompressed", "lz4", "zstd"):
        frame.write_ipc(tmp_path / "data.arrow", compression=compression)
        assert [one.user for one in load_originals(str(tmp_path / "data.arrow"))] == ["ä", "ö"]
        frame.write_ipc_stream(tmp_path / "data.arrow", compression=compression)
        assert [one.user for one in load_originals(str(tmp_path / "data.arrow"))] == ["ä", "ö"]


def test_a_stream_that_was_cut_between_two_batches_or_joined_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows("a", "b"))
    path = tmp_path / "data.arrow"
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table.slice(0, 1))
        length = path.stat().st_size
        writer.write_table(table.slice(1))
    whole = path.read_bytes()
    end = "does not end where its Arrow stream ends: it is cut off, or several were joined"
    assert ids(path) == ["a", "b"]
    assert end in refusal(path, whole[:-8])
    assert end in refusal(path, whole + whole)
    assert length < len(whole) and end in refusal(path, whole[: whole.rindex(b"\xff\xff\xff\xff", 0, -8)])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_files_that_were_joined_are_refused_whatever_their_texts_hold(suffix: str, tmp_path: Path) -> None:
    told = {"id": "a", "messages": sample("PAR1PAR1 ARROW1ARROW1")["messages"]}
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pl.DataFrame([told]).write_parquet(path, compression="uncompressed")
    else:
        write(path, [told])
    assert b"PAR1PAR1" in path.read_bytes() and ids(path) == ["a"]
    other = Path(write(tmp_path / f"other{suffix}", rows("b"))).read_bytes()
    assert "is several files that were joined" in refusal(path, other + path.read_bytes())


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_bytes_that_are_no_text_are_refused(suffix: str, tmp_path: Path) -> None:
    texts = pa.array([b"\xff\xfe"]).view(pa.string())
    content = pa.StructArray.from_arrays([pa.array(["user"]), texts], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), content)
    table = pa.table({"id": ["a"], "messages": messages})
    if suffix == ".parquet":
        pq.write_table(table, tmp_path / "data.parquet")
    else:
        with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
            writer.write_table(table)
    assert "cannot be read" in refusal(tmp_path / f"data{suffix}")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    base = pa.Table.from_pylist(rows("a"))
    pq.write_table(base.add_column(0, "id", pa.array(["x"])), tmp_path / "data.parquet")
    assert "has 2 columns id; keep one of them" in refusal(tmp_path / "data.parquet")
