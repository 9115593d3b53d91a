"""What the evaluation refuses, and what the check of its tables finds."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.configuration import DataSettings, ModelSettings, Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.subset_losses import subset_loss_frame
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tables.schemas import ALL_PAIRS_PRECONDITIONED, PRECONDITIONERS, SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.defs.checks.sound import _all_pairs_rules, _evaluation_rules, _subset_rules
from gradsim_assets.defs.evaluation.evaluation import Work, _variants
from gradsim_assets.defs.evaluation.retrainings import RetrainingPlan
from gradsim_assets.defs.models.hf_model import check_version
from gradsim_assets.demo.adapter import ADAPTER_RECIPE
from gradsim_assets.demo.model import RECIPE
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore
from gradsim_assets_tests.support.analysis_data import block_names, evaluation, realistic
from gradsim_assets_tests.support.tiny_models import save_tiny_model


def test_products_of_another_revision_or_other_settings_are_refused(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "model"))
    hub = ModelHub(home=str(tmp_path), device="cpu", models=[])
    revision = hub.resolve(model)
    now = hub.version(model, revision)
    check_version("dot_products/paraphrased", {"revision": revision.name}, model, now)
    for made in ({}, {"revision": "0123"}, {"revision": revision.name, "settings": "dtype=bfloat16"}):
        with pytest.raises(
            InputError, match=r"dot_products/paraphrased of .* and the model is at .* now; `gradsim run"
        ):
            check_version("dot_products/paraphrased", made, model, now)


def test_scores_of_steps_take_preconditioned_products_of_the_same_revision_alone(tmp_path: Path) -> None:
    store, nothing = TableStore(root=str(tmp_path)), pl.DataFrame()
    work = Work(
        *("paraphrased", "a--b", "r1", ["00", "01"], nothing.lazy(), nothing, nothing),
        *(None, "auto", store, tmp_path, "", print, None, print),  # type: ignore[arg-type]  # which none of it needs
    )
    key, frame = ["preconditioned_products", "paraphrased"], products_of("wx", "wx", ["adam"])
    store.tables.write(key, frame, Partition("a--b", "00"), {"revision": "r1"})
    with pytest.raises(
        InputError, match="not all of preconditioned_products/paraphrased is at hand; `gradsim run a/b`"
    ):
        work.of_shards("preconditioned_products")
    store.tables.write(key, frame, Partition("a--b", "01"), {"revision": "r0"})
    with pytest.raises(InputError, match="of a/b was made from r0, and the model is at r1 now; `gradsim run a/b`"):
        work.of_shards("preconditioned_products")
    store.tables.write(key, frame, Partition("a--b", "01"), {"revision": "r1"})
    assert work.of_shards("preconditioned_products").height == 2 * frame.height


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
    whole = products.group_by("variant_id", "original_id").agg(pl.col("dot_product").sum())
    first = first.with_columns(ids.head(first.height)).join(whole, on=["variant_id", "original_id"], maintain_order="left")
    first = first.with_columns(predicted=-pl.col("learning_rate") * pl.col("dot_product")).drop("dot_product")
    assert rules(store, ["first_order", "paraphrased"], place, first) == []
    (found,) = rules(store, ["first_order", "paraphrased"], place, first.with_columns(pl.col("predicted") * -1))
    assert found.startswith(f"{first.height} predictions are not those of the products")
    strange = first.with_columns(original_id=pl.lit("nobody"))
    (found,) = rules(store, ["first_order", "paraphrased"], place, strange)
    assert found.startswith(f"{first.height} rows are not of dot_products")
    tail = tail.with_columns(variant_id=pl.lit(ids["variant_id"][0]), originals=pl.lit(["drawn_of_all"]))
    assert rules(store, ["tail_patch", "paraphrased"], place, tail) == []
    assert rules(store, ["tail_patch", "paraphrased"], place, tail.with_columns(variant_id=pl.lit("x")))
    assert rules(store, ["tail_patch", "paraphrased"], place, tail.clear()) == ["no variant was evaluated"]


def test_a_model_that_nobody_says_the_making_of_is_not_retrained(tmp_path: Path) -> None:
    place = {"home": tmp_path, "tables": str(tmp_path)}
    with pytest.raises(InputError, match=r"nobody says how a/b was made from the originals, .* under \[training\]"):
        RetrainingPlan(Settings(**place)).recipe("a/b")
    others = DataSettings(samples=6)
    for model in ("demo", "demo-lora"):
        with pytest.raises(InputError, match=f"{model} was made from all of the demo's data"):
            RetrainingPlan(Settings(**place, data=others)).recipe(model)
    assert RetrainingPlan(Settings(**place)).recipe("demo") == RECIPE.training
    assert RetrainingPlan(Settings(**place)).recipe("demo-lora") == ADAPTER_RECIPE.training
    general = TrainingRecipe(epochs=5, batch_size=2)
    own = ModelSettings(id="a/b", training={"epochs": 2})
    plan = RetrainingPlan(Settings(**place, training=general, models=(own,)))
    assert (plan.recipe("a/b").epochs, plan.recipe("a/b").batch_size, plan.recipe("c/d").epochs) == (2, 2, 5)
    assert plan.recipe("demo") == RECIPE.training  # which is its own


def test_what_was_retrained_is_held_to_the_texts_and_halves(tmp_path: Path) -> None:
    store, place = TableStore(root=str(tmp_path)), Partition("m", subset="00")
    texts = sample_frame([Sample(name, "a", "b") for name in "wxyz"])
    store.tables.write(["lima"], texts)
    store.tables.write(["paraphrased"], texts, Partition(shard="00"))
    store.tables.write(["model_generated"], texts, Partition("m", "00"))
    losses = dict.fromkeys("wxyz", 1.0)
    sound = subset_loss_frame({"original": losses, **dict.fromkeys(SETTINGS, losses)}, "wx", "00")
    rules = _subset_rules(["00"])
    assert rules(store, ["subset_losses"], place, sound) == []
    uneven = subset_loss_frame({"original": losses, **dict.fromkeys(SETTINGS, losses)}, "w", "00")
    assert rules(store, ["subset_losses"], place, uneven) == ["1 of 4 originals are in the subset, not half"]
    strange = sound.with_columns(id=pl.col("id").replace("z", "q"))
    assert len(rules(store, ["subset_losses"], place, strange)) == 3
    assert rules(store, ["subset_losses"], place, sound.filter(pl.col("setting") == "original"))[0].startswith(
        "paraphrased: 0 of 0"
    )


def products_of(variants: Sequence[str], originals: Sequence[str], names: Sequence[str]) -> pl.DataFrame:
    """Sound products of all pairs under each of some preconditioners, in two components."""
    rows = itertools.product(names, variants, originals, ("w", "expert"))
    terms = {"dot_product": 1.5, "variant_self": 2.0, "original_self": 3.0}
    return ALL_PAIRS_PRECONDITIONED.enforce(
        pl.DataFrame(
            [
                {"preconditioner": name, "variant_id": one, "original_id": other, "component": component, **terms}
                for name, one, other, component in rows
            ]
        )
    )


def test_products_of_all_pairs_are_looked_at_under_each_preconditioner(tmp_path: Path) -> None:
    store, place, key = TableStore(root=str(tmp_path)), Partition("m"), ["all_pairs_preconditioned", "paraphrased"]
    texts = sample_frame([Sample(name, "a", "b") for name in "wxy"])
    store.tables.write(["lima"], texts)
    store.tables.write(["paraphrased"], texts, Partition(shard="00"))
    sound = products_of("wxy", "wxy", PRECONDITIONERS)
    store.tables.write(key, sound, place, {})
    rules = _all_pairs_rules(["00"])
    assert rules(store, key, place, sound) == []
    of_one = (pl.col("preconditioner") == "ekfac") & (pl.col("variant_id") == "x") & (pl.col("original_id") == "y")
    (found,) = rules(store, key, place, sound.filter(~of_one))
    assert found == "1 of 9 pairs are missing, such as (x, y)"
    (found,) = rules(store, key, place, sound.with_columns(dot_product=pl.when(of_one).then(9.0).otherwise(1.5)))
    assert found.startswith("|dot_product| exceeds the product of the two norms in 2 rows")
    assert rules(store, key, place, sound.clear())[0].startswith("9 of 9 pairs are missing")
    store.tables.write(key, sound, place, {f"curvature/{kind}": "1" for kind in PRECONDITIONERS})
    assert rules(store, key, place, sound) == []
    assert rules(store, key, place, sound.filter(pl.col("preconditioner") != "adam"))[0] == (
        "all products under adam are missing"
    )
