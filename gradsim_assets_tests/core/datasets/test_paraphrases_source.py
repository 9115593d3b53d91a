"""Versions of sources: what changes them, and which shards an edit reaches."""

from pathlib import Path

import pytest

from gradsim_assets.core.datasets import originals_source
from gradsim_assets.core.datasets.lima import LIMA_HUB
from gradsim_assets.core.datasets.originals_source import content_version, originals_version
from gradsim_assets.core.datasets.paraphrased import load_paraphrases
from gradsim_assets.core.datasets.paraphrases_source import paraphrase_versions
from gradsim_assets.core.errors import ServiceError
from gradsim_assets.core.partition_keys import shard_slice
from gradsim_assets_tests.support.sample_files import rows, write

IDS = ("a", "b", "c", "d")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path / "o.jsonl", rows(*IDS)), write(tmp_path / "p.jsonl", rows(*IDS))


def edit(path: str, place: int) -> None:
    content = rows(*IDS)
    content[place]["messages"][1]["content"] += " And more."
    write(Path(path), content)


def test_an_edit_reaches_the_shard_of_its_sample_alone(files: tuple[str, str]) -> None:
    originals, paraphrases = files
    before = paraphrase_versions(paraphrases, originals, 0, 2, None)
    edit(paraphrases, 3)
    after = paraphrase_versions(paraphrases, originals, 0, 2, None)
    assert before["00"] == after["00"] and before["01"] != after["01"]


def test_a_version_is_that_of_what_is_read(files: tuple[str, str]) -> None:
    originals, paraphrases = files
    variants = load_paraphrases(paraphrases, originals)
    assert paraphrase_versions(paraphrases, originals, 0, 2, None) == {
        key: content_version(shard_slice(variants, key, 2)) for key in ("00", "01")
    }


def test_the_kind_of_file_and_the_samples_left_out_do_not_count(files: tuple[str, str], tmp_path: Path) -> None:
    first = originals_version(files[0], 2)
    assert originals_version(write(tmp_path / "o.parquet", rows(*IDS)), 2) == first
    edit(files[0], 3)
    assert originals_version(files[0], 2) == first
    edit(files[0], 1)
    assert originals_version(files[0], 2) != first


def test_a_text_that_went_missing_is_an_edit(files: tuple[str, str]) -> None:
    before = paraphrase_versions(files[1], files[0], 0, 2, None)
    write(Path(files[1]), [*rows("a", "b", "c"), {"id": "d", "messages": None}])
    after = paraphrase_versions(files[1], files[0], 0, 2, None)
    assert [key for key in before if before[key] != after[key]] == ["01"]


def test_originals_of_the_hub_are_a_commit_and_their_ids_place_paraphrases(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals_source, "_hub_commit", lambda repo: "abc")
    assert originals_version(LIMA_HUB, 3) == "abc 3"
    unplaced = paraphrase_versions(files[1], LIMA_HUB, 0, 2, None)
    assert unplaced["00"] == unplaced["01"]
    placed = paraphrase_versions(files[1], LIMA_HUB, 0, 2, ["d", "c", "b", "a"])
    edit(files[1], 3)
    after = paraphrase_versions(files[1], LIMA_HUB, 0, 2, ["d", "c", "b", "a"])
    assert [key for key in placed if placed[key] != after[key]] == ["00"], "by the order of the originals"


def test_a_hub_that_does_not_answer_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="the hub cannot be asked for allenai/tulu-v2-sft-mixture"):
        originals_version(LIMA_HUB, 0)
