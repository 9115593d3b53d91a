"""Paraphrases out of files and a chat model's answers, and the sentences for what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.paraphrased import given_paraphrases, load_paraphrases, written_paraphrases
from gradsim_assets.core.datasets.paraphrasing import ParaphraserOptions, paraphrase_samples
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Missing, Sample, sample_frame, samples_of
from gradsim_assets.core.tables.schemas import PARAPHRASED
from gradsim_assets_tests.support.chat_server import ChatServer
from gradsim_assets_tests.support.paraphrase_cases import samples
from gradsim_assets_tests.support.sample_files import rows, write


def test_a_limit_keeps_the_first_originals_and_their_paraphrases(tmp_path: Path) -> None:
    originals = write(tmp_path / "o.jsonl", rows("a", "b", "c", "d"))
    paraphrases = write(tmp_path / "p.jsonl", rows("d", "b", "a"))
    assert [s.id for s in load_originals(originals, 2)] == ["a", "b"]
    assert [s.id for s in load_paraphrases(paraphrases, originals, 2)] == ["a", "b"]
    assert [s.id for s in load_paraphrases(paraphrases, originals)] == ["a", "b", "d"]


def test_the_column_of_paraphrased_messages_is_preferred(tmp_path: Path) -> None:
    (original,) = rows("a")
    reworded = {**original, "paraphrased_messages": rows("other")[0]["messages"]}
    paraphrases, originals = write(tmp_path / "p.jsonl", [reworded]), write(tmp_path / "o.jsonl", [original])
    assert load_paraphrases(paraphrases, originals)[0].user == "Q other"


def test_a_variant_needs_its_original(tmp_path: Path) -> None:
    originals, paraphrases = write(tmp_path / "o.jsonl", rows("a")), write(tmp_path / "p.jsonl", rows("a", "x"))
    with pytest.raises(InputError, match="variant x has no original of the same id"):
        load_paraphrases(paraphrases, originals)


def test_paraphrases_beyond_the_limit_are_told(tmp_path: Path) -> None:
    originals, paraphrases = write(tmp_path / "o.jsonl", rows("a", "b")), write(tmp_path / "p.jsonl", rows("b"))
    with pytest.raises(InputError, match="holds no paraphrase of the first 1 originals"):
        load_paraphrases(paraphrases, originals, 1)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".arrow"])
def test_a_row_without_messages_is_a_missing_variant_and_never_the_original(suffix: str, tmp_path: Path) -> None:
    originals = write(tmp_path / f"o{suffix}", rows("a", "b", "c", "d", "e"))
    given = [
        {"id": row["id"], "paraphrased_messages": row["messages"], "messages": row["messages"]}
        for row in rows("a", "b", "c", "d")
    ]
    given[1]["paraphrased_messages"] = None
    given[2]["paraphrased_messages"] = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}]
    given[3]["paraphrased_messages"] = []
    found = load_paraphrases(write(tmp_path / f"p{suffix}", given), originals)
    assert found == [
        Sample("a", "Q a", "A a"),
        Missing("b", "no messages in the file"),
        Missing("c", "no assistant text in the file"),
        Missing("d", "no messages in the file"),
    ]
    table = PARAPHRASED.enforce(given_paraphrases(found, sample_frame(load_originals(originals)), "file"))
    assert [sample.id for sample in samples_of(table)] == ["a"]
    assert table["messages"].null_count() == 3
    assert table["flag"].to_list() == [None, *(variant.why for variant in found[1:])]


def test_missing_variants_alone_are_no_paraphrases(tmp_path: Path) -> None:
    originals = write(tmp_path / "o.jsonl", rows("a", "b"))
    paraphrases = write(tmp_path / "p.jsonl", [{"id": "a", "messages": None}, {"id": "b", "messages": None}])
    with pytest.raises(InputError, match="holds no paraphrase: all of its rows are null"):
        load_paraphrases(paraphrases, originals)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "b", "messages": None}, "the id b occurs more than once"),
        ({"id": "z", "messages": None}, "variant z has no original of the same id"),
        ({"id": None, "messages": None}, "a sample has no id"),
    ],
)
def test_a_missing_variant_is_checked_like_any_other(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    originals = write(tmp_path / "o.jsonl", rows("a", "b"))
    with pytest.raises(InputError, match=said):
        load_paraphrases(write(tmp_path / "p.jsonl", [*rows("a", "b"), row]), originals)


def test_given_paraphrases_tell_their_provider_and_nothing_of_a_chat_model() -> None:
    table = PARAPHRASED.enforce(given_paraphrases(samples(2), sample_frame(samples(2)), "file"))
    assert samples_of(table) == samples(2)
    assert table["provider"].to_list() == ["file"] * 2
    unknown = ("paraphrase_model", "prompt_tokens", "completion_tokens", "flag")
    assert all(table[column].null_count() == 2 for column in unknown)


def test_written_paraphrases_tell_what_the_chat_model_said_of_each(tmp_path: Path) -> None:
    with ChatServer() as server:
        options = ParaphraserOptions(
            store=tmp_path, base_url=server.url, api_key=server.key, prices={ParaphraserOptions.model: (0.15, 0.60)}
        )
        result = paraphrase_samples(samples(3), options)
    result.flags["lima_1"] = "user: cut"
    table = PARAPHRASED.enforce(written_paraphrases(result, sample_frame(samples(3)), options.service))
    assert samples_of(table) == result.variants
    assert table["provider"].to_list() == [options.service] * 3
    assert table["flag"].to_list() == [None, "user: cut", None]
    for column in ("prompt_tokens", "completion_tokens"):
        assert dict(table.select("id", column).iter_rows()) == getattr(result, column)
    assert dict(table.select("id", "paraphrase_model").iter_rows()) == result.models


def test_a_text_that_could_not_be_paraphrased_leaves_its_row_without_messages(tmp_path: Path) -> None:
    bad = samples(3)[1].assistant
    with ChatServer(plan=lambda text, nth: "identical" if text == bad else "ok") as server:
        options = ParaphraserOptions(
            store=tmp_path, base_url=server.url, api_key=server.key, prices={ParaphraserOptions.model: (0.15, 0.60)}
        )
        result = paraphrase_samples(samples(3), options)
    table = PARAPHRASED.enforce(written_paraphrases(result, sample_frame(samples(3)), options.service))
    assert table["id"].to_list() == ["lima_0", "lima_1", "lima_2"]
    assert table["messages"].is_null().to_list() == [False, True, False]
    assert table["flag"].to_list() == [None, "assistant: identical", None]
    assert table["completion_tokens"].null_count() == 0, "what was paid is told all the same"
