"""Tables from Python: `load` and `compare`. `scan` is tested where homes are computed."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import gradsim_assets as gs
from gradsim_assets.core.analysis.control_comparison import control_comparison
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.similarity.gradient_similarity import gradient_similarity
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, GRADIENT_SIMILARITY, SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.orchestration.model_registry import register
from gradsim_assets.runs.instance_file import provide
from gradsim_assets_tests.support.analysis_data import block_names, realistic

NAMES = block_names(2)
MODELS = ("org/step2000", "org/step1000", "org/step0")


@pytest.fixture
def similarities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pl.DataFrame]:
    """The similarities of three checkpoints that lie in a home, and a fourth model without any."""
    home = Home(tmp_path / "home")
    provide(home.dagster)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        for model in (*MODELS, "org/bare"):
            register(instance, model)
    frames = {
        model: gradient_similarity(PairProducts.from_frame(realistic(40, 5, NAMES, seed), NAMES))
        for seed, model in enumerate(MODELS)
    }
    for model, frame in frames.items():
        for setting in SETTINGS:
            Tables(str(home.tables)).write([GRADIENT_SIMILARITY.name, setting], frame, Partition(model_slug(model)))
    monkeypatch.setenv("GRADSIM_HOME", str(home.folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return frames


def test_a_table_is_loaded_as_it_lies_there(similarities: dict[str, pl.DataFrame]) -> None:
    for model, frame in similarities.items():
        loaded = gs.load("gradient_similarity", model, "paraphrased")
        assert loaded["model"].unique().to_list() == [model]
        assert_frame_equal(loaded.drop("model"), frame)
    assert_frame_equal(gs.load("gradient_similarity_paraphrased"), gs.scan("gradient_similarity_paraphrased").collect())


def test_a_model_is_compared_with_several_others_at_once(similarities: dict[str, pl.DataFrame]) -> None:
    model, *others = MODELS
    found = gs.compare(model, *others, setting="model_generated")
    for other in others:
        alone = control_comparison(similarities[model], {other: similarities[other]})
        own = found.filter(pl.col("other") == other)
        assert own.height == alone.height > 1
        for column in (
            "component",
            "variants",
            "accuracy",
            "difference",
            "difference_low",
            "p_value",
            "mrr_difference",
        ):
            assert own[column].to_list() == alone[column].to_list()
        assert own["other_accuracy"].to_list() == alone["control_accuracy"].to_list()
    assert FULL_GRADIENT in found["component"].to_list()
    assert not any("control" in column for column in found.columns)


def test_a_comparison_the_other_way_round_has_the_opposite_signs(similarities: dict[str, pl.DataFrame]) -> None:
    there, back = gs.compare(MODELS[0], MODELS[1]), gs.compare(MODELS[1], MODELS[0])
    assert there["difference"].to_list() == pytest.approx([-value for value in back["difference"]])
    assert there["only_model_right"].to_list() == back["only_other_right"].to_list()


def test_what_cannot_be_compared_is_said_in_a_sentence(similarities: dict[str, pl.DataFrame]) -> None:
    with pytest.raises(InputError, match="org/step0 is compared with no other model; name one or more"):
        gs.compare("org/step0")
    with pytest.raises(InputError, match="org/nobody is not registered"):
        gs.compare("org/step0", "org/nobody")
    with pytest.raises(InputError, match="org/bare"):
        gs.compare("org/step0", "org/bare")
