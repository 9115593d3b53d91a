"""What the evaluation refuses, and what the check of its tables finds."""

from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.checks.sound import _evaluation_rules
from gradsim_assets.defs.evaluation.evaluation import _check_revision, _variants
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore
from gradsim_assets_tests.support.analysis_data import block_names, evaluation, realistic
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def test_products_of_another_revision_or_other_settings_are_refused(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model"))
    hub = ModelHub(home=str(tmp_path), device="cpu", models=[])
    revision = hub.resolve(model)
    _check_revision(hub, model, revision, {"revision": revision.name}, "paraphrased")
    for made in ({}, {"revision": "0123"}, {"revision": revision.name, "settings": "dtype=bfloat16"}):
        with pytest.raises(
            InputError, match=r"dot_products/paraphrased of .* and the model is at .* now; `gradsim run"
        ):
            _check_revision(hub, model, revision, made, "paraphrased")


def test_variants_whose_texts_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not all texts of model_generated are at hand; `gradsim run a/b` makes them"):
        _variants(TableStore(root=str(tmp_path)), "model_generated", "a--b", ["00"])


def test_rows_that_are_not_of_the_dot_products_are_found(tmp_path: Path) -> None:
    store, place = TableStore(root=str(tmp_path)), Partition("m")
    products = realistic(6, 3, block_names(1))
    store.tables.write(["dot_products", "paraphrased"], products, Partition("m", "00"), {})
    rules = _evaluation_rules(["00"])
    ids = products.select("variant_id", "original_id").unique(maintain_order=True)
    first, tail = evaluation(ids.height // 2)
    first = first.with_columns(ids.head(first.height))
    assert rules(store, ["first_order", "paraphrased"], place, first) == []
    strange = first.with_columns(original_id=pl.lit("nobody"))
    (found,) = rules(store, ["first_order", "paraphrased"], place, strange)
    assert found.startswith(f"{first.height} rows are not of dot_products")
    tail = tail.with_columns(variant_id=pl.lit(ids["variant_id"][0]), originals=pl.lit(["drawn_of_all"]))
    assert rules(store, ["tail_patch", "paraphrased"], place, tail) == []
    assert rules(store, ["tail_patch", "paraphrased"], place, tail.with_columns(variant_id=pl.lit("x")))
    assert rules(store, ["tail_patch", "paraphrased"], place, tail.clear()) == ["no variant was evaluated"]
