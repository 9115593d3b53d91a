"""Files of samples that were changed by chance: each is read right, or refused with one sentence that says where.

What was done to a file decides what is right. Rewritten in another way, it holds the samples that were written. Damaged, it
holds exactly those still, or is refused, by the number of the line where it has lines. Damage that makes another sound file
(a letter in a text that no checksum guards) is not done here, since nobody could see it.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample

SEED = 20
FILES = 60  # of each kind

#: Pieces of texts that readers of files stumble over.
PIECES = [
    "plain",
    "é",
    "日本",
    "👩‍👩‍👧",
    "\0",
    "\\",
    '"',
    "\n",
    "\r\n",
    "\t",
    "\u2028",
    "\ufeff",
    "{",
    "[",
    "null",
    "\x1b",
    "1e999",
    " ",
]


def samples(rng: random.Random) -> list[Sample]:
    def text() -> str:
        return "x" + "".join(rng.choices(PIECES, k=rng.randint(1, 12)))

    return [Sample(f"{number}{rng.choice(['', '-ü', ' '])}", text(), text()) for number in range(rng.randint(2, 9))]


def outcome(path: Path) -> list[Sample] | str:
    """The samples of a file, or the sentence that it is refused with."""
    try:
        return load_originals(str(path))
    except InputError as error:
        said = str(error)
        assert said.isprintable() and said.endswith(".") and str(path) in said and "Traceback" not in said
        return said


def content(text: str, rng: random.Random) -> Any:
    """A text as content of a message: as it is, or in parts."""
    cut = rng.randint(0, len(text))
    ways = [text, [text], [text[:cut], {"type": "text", "text": text[cut:]}], [{"text": text, "type": "text"}]]
    return rng.choice(ways)


def line(sample: Sample, rng: random.Random, others: bool = True) -> str:
    """A sample as a line of JSON, in one of the many ways to write it."""
    turns = [("user", sample.user), ("assistant", sample.assistant)]
    fields = [
        ("id", int(sample.id) if sample.id.isdigit() and rng.random() < 0.5 else sample.id),
        ("messages", [{"role": role, "content": content(text, rng)} for role, text in turns]),
    ]
    if others:
        fields += rng.sample(
            [
                ("score", None),
                ("tags", [1, "a"]),
                ("n", float("nan")),
                ("x", {"id": 2}),
                ("big", 10**400),
                ("s", "\ud800"),
            ],
            k=rng.randint(0, 3),
        )
    rng.shuffle(fields)
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\t", "  : ")])
    halves = any(isinstance(value, str) and not value.isascii() for _, value in fields if value == "\ud800")
    return json.dumps(dict(fields), ensure_ascii=halves or rng.random() < 0.5, separators=separators)


def join(parts: list[str], rng: random.Random) -> tuple[bytes, list[int]]:
    """Lines as a file, with marks, blank lines and line ends of any system, and the number that each line has there."""
    found, numbers, number = b"\xef\xbb\xbf" if rng.random() < 0.3 else b"", [], 1
    for part in parts:
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            found += rng.choice([b"\n", b" \t\r\n"])
            number += 1
        numbers.append(number)
        found += part.encode() + rng.choice([b"\n", b"\r\n", b" \n"])
        number += 1
    return found.rstrip() if rng.random() < 0.3 else found, numbers


@pytest.mark.parametrize("number", range(FILES))
def test_json_lines_in_any_writing_are_the_samples_that_were_written(number: int, tmp_path: Path) -> None:
    rng = random.Random(SEED * 1000 + number)
    written = samples(rng)
    path = tmp_path / rng.choice(["data.jsonl", "a[0]?*.jsonl", "ü .JSONL"])
    path.write_bytes(join([line(sample, rng) for sample in written], rng)[0])
    assert outcome(path) == written


def torn(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(1, len(text))]


FOREIGN = [
    "<<<<<<< HEAD",
    "id,messages",
    "---",
    "'a'",
    "undefined",
    "{}}",
    "[]",
    '"text"',
    "3",
    "null",
    "{'id': 1}",
    "{id: 1}",
    "\0\0",
]

#: What happens to one line of a file: from its text to other bytes that are no sample.
DAMAGES: list[Callable[[str, random.Random], bytes]] = [
    lambda text, rng: torn(text, rng).encode(),
    lambda text, rng: text[rng.randrange(1, len(text)) :].encode(),
    lambda text, rng: (text + text).encode(),
    lambda text, rng: (text + rng.choice([",", "}", "]", " x"])).encode(),
    lambda text, rng: rng.choice(FOREIGN).encode(),
    lambda text, rng: text.replace('"id"', '"id": 1, "id"', 1).encode(),
    lambda text, rng: text.replace("{", "", 1).encode(),
    lambda text, rng: text.replace('"content"', '"contents"', 1).encode(),
    lambda text, rng: text.replace('"user"', '"system"', 1).encode(),
    lambda text, rng: text.encode().replace(b"x", rng.choice([b"\xff", b"\xe9", b"\xed\xa0\x80", b"\xc0\x80", b"\x01"]), 1),
    lambda text, rng: text.replace("x", "\\ud83d", 1).encode(),
    lambda text, rng: text.replace('"content"', '"content": "x", "content"', 1).encode(),
    lambda text, rng: json.dumps({"id": rng.choice([None, True, 1.5, "", [], {}]), "messages": json.loads(text)["messages"]}).encode(),
    lambda text, rng: json.dumps({"id": "z", "messages": rng.choice([None, [], 3, "text", {}, [3], [[]]])}).encode(),
    lambda text, rng: (rng.choice("[{") * 50_000).encode(),
]  # fmt: skip


@pytest.mark.parametrize("number", range(2 * FILES))
def test_a_damaged_line_is_named_by_its_number(number: int, tmp_path: Path) -> None:
    rng = random.Random(SEED * 2000 + number)
    written = [line(sample, rng, others=False) for sample in samples(rng)]
    raw, numbers = join(written, rng)
    which = rng.randrange(1, len(written))  # the first line decides which format it is: see test_sample_files
    parts, hit = raw.split(b"\n"), numbers[which] - 1
    parts[hit] = DAMAGES[number % len(DAMAGES)](written[which], rng)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(parts))
    said = outcome(path)
    assert isinstance(said, str), "a line that is no sample was passed over"
    assert f"data.jsonl, line {hit + 1}" in said


@pytest.mark.parametrize("number", range(FILES))
def test_bytes_changed_anywhere_in_json_lines_are_read_as_they_are_or_refused(number: int, tmp_path: Path) -> None:
    rng = random.Random(SEED * 3000 + number)
    raw = bytearray(join([line(sample, rng) for sample in samples(rng)], rng)[0])
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(raw))
        raw[place : place + rng.choice([0, 1, 1, 5])] = rng.randbytes(rng.choice([0, 1, 4]))
    path = tmp_path / "data.jsonl"
    path.write_bytes(raw)
    found = outcome(path)
    if isinstance(found, str):
        assert "line " in found or found.startswith(f"{path} ")
        return
    stands = [json.loads(one) for one in raw.decode("utf-8-sig").split("\n") if one.strip()]
    assert [sample.id for sample in found] == [str(one["id"]) for one in stands]
    for sample, one in zip(found, stands, strict=True):
        for text, message in zip((sample.user, sample.assistant), one["messages"], strict=True):
            given = message["content"] if isinstance(message["content"], list) else [message["content"]]
            assert text == "".join(part if isinstance(part, str) else part["text"] for part in given)


def columns(written: list[Sample], rng: random.Random) -> pa.Table:
    table = pa.Table.from_pylist([{"id": sample.id, "messages": sample.messages} for sample in written])
    number = pa.array(range(len(written)), rng.choice([pa.int8(), pa.float64(), pa.timestamp("us", "+01:00")]))
    return table.add_column(rng.randint(0, 2), "other", number)


def write_columns(path: Path, written: list[Sample], rng: random.Random) -> None:
    """Writes a file in which every byte of a text is guarded: by a checksum, or by the compression that it would break."""
    table = columns(written, rng)
    if path.suffix == ".parquet":
        compression = rng.choice(["none", "snappy", "zstd"])
        pq.write_table(table, path, compression=compression, write_page_checksum=True, row_group_size=rng.randint(1, 9))
        return
    to = pa.ipc.new_stream if rng.random() < 0.5 else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=rng.choice([None, "zstd", "lz4"]))
    with to(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rng.randint(1, 9))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("number", range(FILES // 2))
def test_files_of_columns_are_the_samples_that_were_written(number: int, suffix: str, tmp_path: Path) -> None:
    rng = random.Random(SEED * 4000 + number)
    written = samples(rng)
    path = tmp_path / f"{rng.choice(['data', 'a[0]', 'shard=00?', '*'])}{suffix}"
    write_columns(path, written, rng)
    assert outcome(path) == written


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def lost(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + raw[place + rng.randint(1, 64) :]


def joined(raw: bytes, rng: random.Random) -> bytes:
    return raw + rng.choice([raw, b"\n", b"\0" * 512, rng.randbytes(9)])


def zeroed(raw: bytes, rng: random.Random) -> bytes:
    """As a file system leaves a block that was never written."""
    place, length = rng.randrange(len(raw)), 4096
    return raw[:place] + b"\0" * len(raw[place : place + length]) + raw[place + length :]


def as_text(raw: bytes, rng: random.Random) -> bytes:
    """As a transfer in text mode does it."""
    return raw.replace(b"\n", b"\r\n") if b"\n" in raw else raw.decode("latin-1").encode()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("number", range(FILES))
def test_a_damaged_file_of_columns_is_what_was_written_or_refused(number: int, suffix: str, tmp_path: Path) -> None:
    rng = random.Random(SEED * 5000 + number)
    written = samples(rng)
    path = tmp_path / f"data{suffix}"
    write_columns(path, written, rng)
    damage = rng.choice([cut, lost, joined, zeroed, as_text])
    path.write_bytes(damage(path.read_bytes(), rng))
    found = outcome(path)
    assert isinstance(found, str) or found == written, damage.__name__
