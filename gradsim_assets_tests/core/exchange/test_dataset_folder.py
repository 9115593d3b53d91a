"""Exported folders, opened with the libraries that their readers use; pushing, against a hub on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas
import polars as pl
import pytest
import yaml

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.exchange.dataset_folder import CardInfo, export_dataset, push_folder
from gradsim_assets_tests.support.hub_server import HubServer

MESSAGES = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))


def dataset(rows: int = 3) -> pl.DataFrame:
    messages = [
        [{"role": "user", "content": f"Wer {i}?\n|ä|"}, {"role": "assistant", "content": f"```{i}```"}]
        for i in range(rows)
    ]
    return pl.DataFrame(
        {
            "id": [f"lima_{i}" for i in range(rows)],
            "messages": messages,
            "prompt_tokens": list(range(rows)),
            "flag": ["user: cut", *[None] * (rows - 1)],
        },
        schema_overrides={"messages": MESSAGES, "flag": pl.String()},
    )


def card(**more) -> CardInfo:
    return CardInfo(
        **{
            "name": "LIMA: paraphrased",
            "description": "Originals rewritten by a chat model.",
            "license": "cc-by-nc-4.0",
            "lineage": {
                "model": "amd/AMD-OLMo-1B-SFT",
                "model_revision": "0123abcd",
                "code_version": "77aa",
                "configuration": {"temperature": 1.0, "seed": 42, "paraphraser": "gpt-4o-mini-2024-07-18"},
                "dirty": None,
            },
            "counts": {"flagged": 1},
            "columns": {"id": "id of the sample", "flag": "why | it is doubtful"},
            **more,
        }
    )


def test_datasets_and_pandas_open_the_folder(tmp_path: Path):
    from datasets import List, Value, load_dataset

    frame = dataset()
    folder = export_dataset(frame, tmp_path / "export", card())
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == frame.to_dicts()
    assert loaded["train"].features["messages"] == List({"role": Value("string"), "content": Value("string")})
    assert loaded["train"].features["flag"] == Value("string")
    read = pandas.read_parquet(folder / "data")
    assert read["id"].tolist() == frame["id"].to_list()
    assert [list(messages) for messages in read["messages"]] == frame["messages"].to_list()
    assert pl.read_parquet(folder / "data" / "*.parquet").equals(frame)


def test_the_card_tells_the_lineage(tmp_path: Path):
    folder = export_dataset(dataset(), tmp_path / "export", card())
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-nc-4.0"
    assert front["pretty_name"] == "LIMA: paraphrased"
    assert front["size_categories"] == ["n<1K"]
    for told in (
        "`0123abcd`",
        "`77aa`",
        "  - **seed**: 42",
        "- **rows**: 3",
        "- **flagged**: 1",
        "`amd/AMD-OLMo-1B-SFT`",
    ):
        assert told in body
    assert "dirty" not in body
    assert "| `messages` | list of {role, content} |  |" in body
    assert "| `flag` | string | why \\| it is doubtful |" in body
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["lineage"]["configuration"]["seed"] == 42
    assert lineage["rows"] == 3


def test_the_hub_library_reads_the_card(tmp_path: Path):
    from huggingface_hub import DatasetCard

    folder = export_dataset(dataset(), tmp_path / "export", card(license=None))
    loaded = DatasetCard.load(folder / "README.md")
    assert loaded.data.license == "unknown"
    assert loaded.data.configs[0]["data_files"][0]["path"] == "data/train-*.parquet"


def test_lazy_frames_and_files_are_exported_too(tmp_path: Path):
    from datasets import load_dataset

    dataset(2000).write_parquet(tmp_path / "table.parquet")
    for name, source in (("lazy", dataset(2000).lazy()), ("file", tmp_path / "table.parquet")):
        folder = export_dataset(source, tmp_path / name, card())
        assert load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"].num_rows == 2000
        assert "1K<n<10K" in (folder / "README.md").read_text()


def test_an_export_replaces_an_earlier_one_but_nothing_else(tmp_path: Path):
    folder = tmp_path / "export"
    folder.mkdir()
    export_dataset(dataset(5), folder, card())  # an empty folder will do
    export_dataset(dataset(2), folder, card())
    assert pl.read_parquet(folder / "data" / "*.parquet").height == 2
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="is no earlier export, so it is left alone"):
        export_dataset(dataset(), mine, card())
    assert (mine / "chapter.tex").exists()


def test_a_failed_export_leaves_the_earlier_one(tmp_path: Path):
    folder = export_dataset(dataset(5), tmp_path / "export", card())
    broken = dataset().lazy().with_columns(pl.col("flag").cast(pl.Int64()))  # fails while it is streamed
    with pytest.raises(pl.exceptions.InvalidOperationError):
        export_dataset(broken, folder, card())
    assert pl.read_parquet(folder / "data" / "*.parquet").height == 5
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


# Pushing


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


def test_a_pushed_dataset_is_private_and_whole(tmp_path: Path, hub: HubServer):
    folder = export_dataset(dataset(), tmp_path / "export", card())
    assert hub.posts == []  # an export alone sends nothing
    where = push_folder(folder, "me/lima", "hf_right", endpoint=hub.url)
    assert where == f"{hub.url}/datasets/me/lima"
    # Older clients send `private`, newer ones `visibility`.
    assert hub.created.get("private") is True or hub.created["visibility"] == "private"
    assert hub.created["type"] == "dataset"
    assert hub.received == {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("me/lima", None, "there is no token"),
        ("me/lima", "hf_wrong", r"refuses the push to me/lima \(HTTP 401\)"),
        ("a/b/c", "hf_right", "is no name of a hub dataset"),
    ],
)
def test_a_push_that_cannot_be_is_told(tmp_path: Path, hub: HubServer, repository, token, message):
    folder = export_dataset(dataset(), tmp_path / "export", card())
    with pytest.raises(InputError, match=message) as caught:
        push_folder(folder, repository, token, endpoint=hub.url)
    assert "hf_" not in str(caught.value)
    assert hub.received == {}


def test_a_push_without_a_hub_or_an_export_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="is no exported dataset"):
        push_folder(tmp_path, "me/lima", "hf_right")
    folder = export_dataset(dataset(), tmp_path / "export", card())
    with pytest.raises(InputError, match="the hub cannot be reached"):
        push_folder(folder, "me/lima", "hf_right", endpoint="http://127.0.0.1:9")
