"""Every format with every layout and every compression gives the same conversations; what is not read is said."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gradsim_assets.core.datasets.lima import hub_repo, load_originals, read_originals
from gradsim_assets.core.datasets.originals_source import originals_version
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
from gradsim_assets.core.datasets.sample_files import Source, read_rows
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample
from gradsim_assets.demo.model import train_tokenizer
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets_tests.support.conversations import MESSAGES, TOOLS, conversation, plain

#: The same two exchanges, and what can be said in each layout beside them.
FIRST, SECOND = Sample("a", 'What is "it"?\nSay, please.', "It, that is."), Sample("b", "Größe?", "1,5; or so\t🗼")
BRIEF = {"role": "system", "content": "Be brief."}


def exchange(sample: Sample) -> list[dict[str, str]]:
    return sample.messages


def share_gpt(sample: Sample) -> list[dict[str, str]]:
    return [{"from": "human", "value": sample.user}, {"from": "gpt", "value": sample.assistant}]


#: By layout: the columns of a sample.
LAYOUTS: dict[str, Callable[[Sample], dict[str, Any]]] = {
    "messages": lambda s: {"messages": exchange(s)},
    "ShareGPT": lambda s: {"conversations": share_gpt(s)},
    "ShareGPT with roles": lambda s: {"conversations": exchange(s)},
    "LIMA": lambda s: {"conversations": [s.user, s.assistant]},
    "Alpaca": lambda s: {"instruction": s.user, "input": "", "output": s.assistant},
    "prompt and completion": lambda s: {"prompt": s.user, "completion": s.assistant},
    "messages as prompt and completion": lambda s: {"prompt": exchange(s)[:1], "completion": exchange(s)[1:]},
    "preferences": lambda s: {"prompt": s.user, "chosen": s.assistant, "rejected": "Nothing."},
    "preferences of messages": lambda s: {"prompt": exchange(s)[:1], "chosen": exchange(s)[1:], "rejected": None},
    "preferences of whole conversations": lambda s: {"chosen": exchange(s), "rejected": exchange(s)[:1]},
    "question and answer": lambda s: {"question": s.user, "answer": s.assistant},
    "prompt and response": lambda s: {"prompt": s.user, "response": s.assistant},
}


def as_csv(rows: list[dict[str, Any]], separator: str = ",") -> bytes:
    cells = [{name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows]
    return pl.DataFrame(cells).write_csv(separator=separator).encode()


#: By the end of a name: a text of rows.
TEXTS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".ndjson": lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(),
    ".json": lambda rows: json.dumps(rows, indent=2).encode(),
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda raw: raw,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}


def write_columns(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    """Rows in a file of columns, or in a folder of `datasets`."""
    path = folder / f"data{'.parquet' if kind == 'parquet' else '.arrow'}"
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif kind == "folder":
        path = folder / "data"
        datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=2)
    else:
        table = pa.Table.from_pylist(rows)
        with (pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    return path


MATRIX = [(text, compression) for text in TEXTS for compression in COMPRESSIONS]
IN_CELLS = ("messages as prompt and completion", "preferences of messages", "preferences of whole conversations")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("text", "compression"), MATRIX, ids=["".join(one) for one in MATRIX])
def test_texts_of_every_layout_and_compression_are_the_same_samples(
    text: str, compression: str, layout: str, tmp_path: Path
) -> None:
    if text in (".csv", ".tsv") and layout in IN_CELLS:
        pytest.skip("a cell of such a column is the text of one message")
    rows = [{"id": one.id, **LAYOUTS[layout](one), "source": "x"} for one in (FIRST, SECOND)]
    path = tmp_path / f"data{text}{compression}"
    path.write_bytes(COMPRESSIONS[compression](TEXTS[text](rows)))
    assert load_originals(str(path)) == [FIRST, SECOND]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream", "folder"])
def test_columns_of_every_layout_are_the_same_samples(kind: str, layout: str, tmp_path: Path) -> None:
    rows = [{"id": one.id, **LAYOUTS[layout](one), "source": "x"} for one in (FIRST, SECOND)]
    path = write_columns(rows, kind, tmp_path)
    assert load_originals(str(path)) == [FIRST, SECOND]
    named = [{"uid": row["id"], "x": 1, **{f"my_{n}": v for n, v in row.items() if n != "id"}} for row in rows]
    (tmp_path / "named").mkdir()
    columns = {"id": "uid", **{n: f"my_{n}" for n in rows[0] if n not in ("id", "source")}}
    source = Source(str(write_columns(named, kind, tmp_path / "named")), tuple(columns.items()))
    assert load_originals(source) == [FIRST, SECOND]


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Sample], list[str]]:
    path = tmp_path / "data.jsonl"
    path.write_bytes(TEXTS[".jsonl"](list(rows)))
    found = read_originals(Source(str(path), **options))
    return found.samples, found.notes


def test_all_that_a_layout_can_say_is_read(tmp_path: Path) -> None:
    turns = [("human", "Q"), ("gpt", "A"), ("observation", "seen"), ("gpt", "B")]
    share = [{"from": "system", "value": "Be brief."}, *({"from": who, "value": said} for who, said in turns)]
    found, _ = read(
        tmp_path,
        {"id": 1, "conversations": share, "tools": json.dumps(TOOLS)},
        {"id": 2, "conversations": share[1:], "system": "Be brief."},
    )
    roles = ("user", "assistant", "observation", "assistant")
    messages = [BRIEF, *({"role": role, "content": said} for role, (_, said) in zip(roles, turns, strict=True))]
    assert found == [Sample.of("1", messages, TOOLS), Sample.of("2", messages)]
    alpaca = {"instruction": "Add.", "input": "2 and 2", "output": "4", "history": [["Hi", "Hello"]]}
    found, _ = read(
        tmp_path, {"id": 1, **alpaca}, {"id": 2, "system": "Be brief.", "instruction": "Add.", "output": "4"}
    )
    assert found == [
        plain("1", "Hi", "Hello", "Add.\n2 and 2", "4"),
        Sample.of("2", [BRIEF, *plain("", "Add.", "4").messages]),
    ]
    found, _ = read(tmp_path, {"id": "c", "prompt": MESSAGES[:-1], "completion": MESSAGES[-1:], "tools": TOOLS})
    assert found == [conversation()]


def test_all_of_lima_is_read_with_its_conversations(tmp_path: Path) -> None:
    """1,030 rows as GAIR publishes them: most of one exchange, some of up to five, of texts in turn."""
    rows = [
        {
            "conversations": [f"Text {n} of {number}?" for n in range(2 if number < 1000 else 2 * (2 + number % 4))],
            "source": "x",
        }
        for number in range(1030)
    ]
    found, notes = read(tmp_path, *rows)
    assert [len(one.messages) for one in found] == [len(row["conversations"]) for row in rows]
    assert len({one.id for one in found}) == 1030 and "1030 rows" in notes[0]
    chat = ChatTokenizer(train_tokenizer())
    for one, row in zip(found[990:], rows[990:], strict=True):
        labels = chat.encode(one).labels
        ends = np.flatnonzero(labels == chat.tokenizer.eos_token_id)
        assert len(ends) == len(row["conversations"]) / 2


def test_plain_texts_are_samples_without_turns(tmp_path: Path) -> None:
    found, notes = read(tmp_path, {"id": 1, "text": "Once upon a time."}, {"id": 2, "text": "The end."})
    assert [one.messages for one in found] == [
        [{"role": "text", "content": t}] for t in ("Once upon a time.", "The end.")
    ]
    assert all(one.is_plain for one in found) and "with plain texts (text): 2 rows" in notes[0]
    tokenizer = train_tokenizer()
    encoded = ChatTokenizer(tokenizer).encode(found[0])
    assert tokenizer.decode(encoded.input_ids) == f"Once upon a time.{tokenizer.eos_token}"
    assert np.array_equal(encoded.labels, encoded.input_ids)
    mixed = {"id": 3, "messages": [{"role": "text", "content": "Once."}, *exchange(FIRST)]}
    with pytest.raises(InputError, match="has the role text"):
        read(tmp_path, mixed)


def test_what_was_detected_made_up_or_left_out_is_said(tmp_path: Path) -> None:
    rows = [
        {**LAYOUTS["preferences"](one), "topic": topic} for one, topic in ((FIRST, "x"), (SECOND, "y"), (FIRST, "x"))
    ]
    found, notes = read(tmp_path, *rows, where=(("topic", ("x",)),))
    assert [one.user for one in found] == [FIRST.user] * 2
    assert found[1].id == f"{found[0].id}-2" and len(found[0].id) == 12
    assert "is JSON lines with preferences (chosen): 2 rows" in notes[0]
    assert notes[1:] == [
        "1 rows are not those of data.filter",
        "2 rejected answers are ignored",
        "the samples have no ids: each is called by the hash of its content",
        "kept beside the samples: topic (1 values)",
    ]
    again, _ = read(tmp_path, *reversed(rows))
    assert {one.id for one in found} < {one.id for one in again}, "an id follows from the content alone"
    with pytest.raises(InputError, match=r"holds no samples of data\.filter"):
        read(tmp_path, *rows, where=(("topic", ("z",)),))
    with pytest.raises(
        InputError, match=r"data\.filter names tpic, which .* lacks; it has prompt, chosen, rejected, topic"
    ):
        read(tmp_path, *rows, where=(("tpic", ("x",)),))


def test_paraphrases_without_ids_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(TEXTS[".jsonl"]([LAYOUTS["Alpaca"](FIRST)]))
    with pytest.raises(InputError, match="needs the column id: it has instruction, input, output"):
        load_paraphrases(str(path), str(path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": [{"from": "narrator", "value": "Q"}]}, "line 1: sample a has the role narrator"),
        ({"conversations": [{"value": "Q"}]}, "has a message of {value}; messages must be a list of {role, content}"),
        ({"conversations": "Q"}, "has text as its messages"),
        ({"instruction": "Q", "output": None}, "sample a has an empty answer"),
        ({"instruction": "", "output": "A"}, "sample a has an empty user message"),
        ({"instruction": 3, "output": "A"}, "has a number among the parts of its user message"),
        ({"prompt": "Q", "completion": 4}, "has a number as the content of its assistant message"),
        ({"prompt": "Q", "completion": "A", "tools": "[{"}, "has tools that are no JSON"),
        ({"prompt": "Q", "completion": "A", "tools": "[" * 99999}, "has tools that are no JSON"),
        ({"instruction": "Q", "output": "A", "history": ["Hi"]}, "history holds a list where a list of pairs"),
        ({"instruction": "Q", "output": "A", "history": [["Hi", "Hello", "You"]]}, "where a list of pairs"),
        ({"instruction": "Q", "output": "A", "history": 5}, "history holds a number where a list of pairs"),
        ({"instruction": "Q", "output": "A", "history": "Hi"}, "history holds text where a list of pairs"),
    ],
)
def test_an_unsound_row_of_another_layout_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, {"id": "a", **row})
    assert said in str(caught.value) and "data.jsonl, line 1" in str(caught.value)


def test_a_folder_of_splits_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list([{"id": "a", **LAYOUTS["messages"](FIRST)}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "both")
    with pytest.raises(InputError, match=r"is a folder of several splits \(test, train\); name the folder of one"):
        load_originals(str(tmp_path / "both"))
    assert load_originals(str(tmp_path / "both" / "train")) == [FIRST]
    next((tmp_path / "both" / "test").glob("*.arrow")).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_originals(str(tmp_path / "both" / "test"))


def test_the_version_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    versions = []
    for sample in (FIRST, SECOND):
        datasets.Dataset.from_list([{"id": "a", **LAYOUTS["messages"](sample)}]).save_to_disk(tmp_path / "set")
        versions.append(originals_version(str(tmp_path / "set"), 0))
    assert versions[0] != versions[1]


@pytest.mark.parametrize(
    ("named", "repo"),
    [
        ("lima", "allenai/tulu-v2-sft-mixture"),
        ("org/name:train", "org/name"),
        ("imdb:test", "imdb"),
        ("data.jsonl", None),
        ("a/b/c:train", None),
        ("C:train", None),
        ("s3://bucket", None),
    ],
)
def test_a_dataset_of_the_hub_is_told_by_its_split(named: str, repo: str | None) -> None:
    assert hub_repo(named) == repo


def test_a_dataset_by_name_and_split_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` takes a folder of that name for the dataset, so that no hub is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "org" / "name").mkdir(parents=True)
    rows = [{"id": s.id, "dataset": kind, **LAYOUTS["ShareGPT"](s)} for s, kind in ((FIRST, "x"), (SECOND, "y"))]
    (tmp_path / "org" / "name" / "train.jsonl").write_bytes(TEXTS[".jsonl"](rows))
    assert load_originals("org/name:train") == [FIRST, SECOND]
    sources = SampleSources(
        originals="org/name:train", paraphrases="openai", samples=0, folder=str(tmp_path), where={"dataset": ["y", "z"]}
    )
    assert sources.load_originals() == [SECOND]
    with pytest.raises(InputError, match="org/name could not be loaded from the hub .* check the name, the split test"):
        load_originals("org/name:test")


def test_paraphrases_have_the_columns_of_the_configuration_and_are_not_filtered(tmp_path: Path) -> None:
    for name, texts in (("o", ("Q", "A")), ("p", ("R", "B"))):
        rows = [{"uid": "1", "chat": plain("", *texts).messages, **({"topic": "x"} if name == "o" else {})}]
        (tmp_path / f"{name}.jsonl").write_bytes(TEXTS[".jsonl"](rows))
    sources = SampleSources(
        originals="o.jsonl",
        paraphrases="p.jsonl",
        samples=0,
        folder=str(tmp_path),
        columns={"id": "uid", "messages": "chat"},
        where={"topic": "x"},
    )
    assert sources.load_originals() == [Sample("1", "Q", "A")]
    assert sources.load_paraphrases() == [Sample("1", "R", "B")]
    assert sources.read_originals().notes[0].endswith("o.jsonl is JSON lines with messages (messages): 1 rows")


def test_paraphrases_may_have_our_columns_where_originals_have_others(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_bytes(TEXTS[".jsonl"]([{"uid": "1", "chat": plain("", "Q", "A").messages}]))
    (tmp_path / "p.jsonl").write_bytes(TEXTS[".jsonl"]([{"id": "1", "messages": plain("", "R", "B").messages}]))
    columns = {"id": "uid", "messages": "chat"}
    sources = SampleSources(
        originals="o.jsonl", paraphrases="p.jsonl", samples=0, folder=str(tmp_path), columns=columns
    )
    assert sources.load_paraphrases() == [Sample("1", "R", "B")]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("ours", ["id", "tools", "prompt"])
def test_a_column_that_is_named_and_not_there_is_refused(ours: str, suffix: str, tmp_path: Path) -> None:
    """Without the column samples would be called otherwise, or lose their tools, without a word."""
    path = tmp_path / f"data{suffix}"
    frame = pl.DataFrame({"id": ["1"], "prompt": ["Q"], "completion": ["A"]})
    {".jsonl": frame.write_ndjson, ".csv": frame.write_csv, ".parquet": frame.write_parquet}[suffix](path)
    with pytest.raises(InputError, match=f"data.columns names mine as {ours}, which .* lacks; it has id, prompt, comp"):
        read_rows(Source(str(path), ((ours, "mine"),)))


@pytest.mark.parametrize("names", [("prompt", "completion"), ("prompt", "chosen"), ("asked", "told")])
def test_messages_in_cells_of_prompts_and_answers_are_messages_and_other_lists_are_texts(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """Whatever the columns are called."""
    asked, told = ([{"role": role, "content": text}] for role, text in (("user", "Q"), ("assistant", "A")))
    rows = [
        {"id": "a", names[0]: json.dumps(asked), names[1]: json.dumps(told)},
        {"id": "b", names[0]: "[1, 2]", names[1]: '[{"content": 3}]'},
        {"id": "c", names[0]: "[Q", names[1]: "[" * 99999},
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "o.csv")
    named = (("prompt", "asked"), ("completion", "told")) if names[0] == "asked" else ()
    assert load_originals(Source(str(tmp_path / "o.csv"), named)) == [
        Sample("a", "Q", "A"),
        Sample("b", "[1, 2]", '[{"content": 3}]'),
        Sample("c", "[Q", "[" * 99999),
    ]


def test_values_of_a_filter_that_no_row_has_are_told_beside_those_that_are_there(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": list("abcd"), "completion": list("abcd"), "part": [1, 2, 3, 4]}).write_csv(
        tmp_path / "o.csv"
    )
    with pytest.raises(
        InputError, match=r"no samples of data.filter \(part is '1' or '2' or '3' or others\): correct its"
    ):
        load_originals(Source(str(tmp_path / "o.csv"), (), (("part", (1,)),)))


def test_columns_may_change_places(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_bytes(TEXTS[".jsonl"]([{"id": "1", "prompt": "A", "completion": "Q"}]))
    columns = (("completion", "prompt"), ("prompt", "completion"))
    assert load_originals(Source(str(tmp_path / "o.jsonl"), columns)) == [Sample("1", "Q", "A")]


@pytest.mark.parametrize("given", [{"columns": {"id": "uid"}}, {"where": {"dataset": "lima"}}])
@pytest.mark.parametrize("named", ["demo", "lima"])
def test_what_has_its_own_columns_takes_no_others(named: str, given: dict[str, Any]) -> None:
    sources = SampleSources(originals=named, paraphrases="openai", samples=0, **given)
    with pytest.raises(InputError, match=f'files and datasets of your own; leave them out with "{named}"'):
        sources.load_originals()


def test_a_file_of_that_name_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name:train").touch()
    assert hub_repo("org/name:train") is None
