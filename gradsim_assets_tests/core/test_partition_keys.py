"""Slugs of models, keys and slices of shards."""

from pathlib import Path

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_folder, write_whole
from gradsim_assets.core.partition_keys import (
    MAX_SLUG,
    checked_slug,
    is_slug,
    model_id_of,
    model_slug,
    shard_keys,
    shard_slice,
)

MODEL_IDS = [
    "gpt2",
    "amd/AMD-OLMo-1B-SFT",
    "org/name@v1.0",
    "org/name@refs/pr/1",
    "/data/models/x--y",
    "/data/-odd-/ü n|a,b",
    "org/-a-",
    "a-/b",
    "a/-b",
    "a---b",
    "--",
    "x~y/~2D",
    "日本/模型",
    "amd/AMD-OLMo-1B-SFT+untrained",
    "/data/a b-/c+d+untrained",
    "org/name@v1.0+untrained",
    "a+untrained/b",
]


@pytest.mark.parametrize("model_id", MODEL_IDS)
def test_a_slug_goes_back_to_its_id_and_has_no_character_with_a_meaning(model_id: str) -> None:
    slug = model_slug(model_id)
    assert model_id_of(slug) == model_id
    assert not set(slug) & set("/|, \\")


def test_no_two_models_share_a_slug() -> None:
    assert len({model_slug(model_id) for model_id in MODEL_IDS}) == len(MODEL_IDS)


def test_the_slug_of_a_hub_id_is_readable() -> None:
    assert model_slug("amd/AMD-OLMo-1B-SFT") == "amd--AMD-OLMo-1B-SFT"


def test_the_slug_of_a_control_is_that_of_its_model_with_the_ending_of_the_id() -> None:
    assert model_slug("amd/AMD-OLMo-1B-SFT+untrained") == "amd--AMD-OLMo-1B-SFT+untrained"


@pytest.mark.parametrize(
    ("model_id", "sentence"),
    [
        ("a/b+untrained+untrained", r"a/b\+untrained has random weights already and needs no control; add that of a/b"),
        ("+untrained", "a model without an id cannot be registered"),
    ],
)
def test_what_no_control_can_be_of_is_refused(model_id: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        checked_slug(model_id)
    assert not is_slug(model_id)


@pytest.mark.parametrize("key", ["org/name", "a|b", "~zz", "", "~FF"])
def test_a_raw_key_is_refused_with_the_right_one(key: str) -> None:
    with pytest.raises(InputError) as caught:
        model_id_of(key)
    assert repr(model_slug(key)) in str(caught.value)
    assert f"gradsim models remove '{key}'" in str(caught.value)


@pytest.mark.parametrize("model_id", ["org/" + "x" * 300, "/data/" + "模" * 30, "/" + "long folder/" * 20])
def test_a_model_whose_key_is_no_name_of_a_folder_is_refused_when_it_is_added(model_id: str) -> None:
    with pytest.raises(InputError, match="folders are named by it: 200 are the most. Give the model a shorter path"):
        checked_slug(model_id)


def test_the_longest_key_is_a_folder_with_all_that_is_written_beside_it(tmp_path: Path) -> None:
    slug = checked_slug("m" * MAX_SLUG)
    write_whole(tmp_path / f"model={slug}" / "data.parquet", "rows")
    with whole_folder(tmp_path / slug):
        pass
    assert (tmp_path / slug).is_dir()


@pytest.mark.parametrize("count", [1, 4, 10, 99])
def test_shards_cover_everything_once_in_order(count: int) -> None:
    items = list(range(101))
    slices = [list(shard_slice(items, key, count)) for key in shard_keys(count)]
    assert [item for part in slices for item in part] == items
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize("count", [0, 100])
def test_the_number_of_shards_has_bounds(count: int) -> None:
    with pytest.raises(InputError, match="choose 1 to 99 shards"):
        shard_keys(count)


def test_more_shards_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match=r"5 shards are more than the 3 samples; set data.shards to 3 or less"):
        shard_slice([1, 2, 3], "00", 5)
