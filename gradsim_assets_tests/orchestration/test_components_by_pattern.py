"""Components chosen by patterns, in a home of its own: every table is of them, and another choice leaves the tables stale."""

from collections.abc import Iterator

import polars as pl
import pytest

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.changing_home import ChangingHome, finished_home

PATTERNS = ["*.mlp.*", "model.layers.1.self_attn.o_proj.*"]

#: Of the tiny OLMo: three matrices of each of two blocks, and one more.
CHOSEN = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed of all components, and then of some."""
    data, asked = {"shards": 1, "candidates": 3}, {"methods": ["adam"]}
    with finished_home(tmp_path_factory, data, {"projections": [0.01]}, asked, positions=256) as home:
        home.evaluation.update(pairs=4, variants=2)
        home.model["components"] = PATTERNS
        home.configure()
        yield home


def test_another_choice_leaves_the_tables_of_the_model_stale_until_they_are_of_it(home: ChangingHome) -> None:
    home.look()
    stale = {table for table, _ in home.out_of_date()}
    expected = {
        f"{name}_{s}" for name in ("dot_products", "projected_similarity", "preconditioned_products") for s in SETTINGS
    }
    assert expected | {"curvature_adam", "parameters_per_component"} <= stale
    assert {"lima", "paraphrased", "bm25_candidates"}.isdisjoint(stale)
    home.run()
    home.run("--only", "evaluation")
    assert home.out_of_date() == {}
    tables = home.tables()
    (sizes,) = (table for place, table in tables.items() if place.startswith("parameters_per_component"))
    names = set(sizes["component"])
    assert len(names) == CHOSEN
    for place, table in tables.items():
        if "component" in table.columns:
            found = set(table["component"].drop_nulls()) - {"full_gradient"}
            assert found <= names, place
            assert found == names or not place.startswith(("dot_products", "curvature", "accuracy_per_component")), (
                place
            )
    store = resources(load_settings()).store
    source = store.tables.provenance(["dot_products", SETTINGS[0]], Partition(home.slug, "00"))
    assert source["settings"] == f"components={','.join(PATTERNS)}"


def test_the_full_gradient_and_a_step_are_those_of_the_chosen_components(home: ChangingHome) -> None:
    tables = home.tables()
    for setting in SETTINGS:
        (products,) = (t for place, t in tables.items() if place.startswith(f"dot_products/{setting}"))
        (similarity,) = (t for place, t in tables.items() if place.startswith(f"gradient_similarity/{setting}"))
        (steps,) = (t for place, t in tables.items() if place.startswith(f"first_order/{setting}"))
        sums = products.group_by("variant_id", "original_id").agg(
            pl.col("dot_product", "variant_self", "original_self").sum()
        )
        cosines = sums.with_columns(c=pl.col("dot_product") / (pl.col("variant_self") * pl.col("original_self")).sqrt())
        both = similarity.filter(component="full_gradient").join(cosines, on=["variant_id", "original_id"])
        assert both.height == sums.height and (both["similarity"] - both["c"]).abs().max() < 1e-6
        # A step moves the chosen components alone, or what it does could not be foretold from their products.
        assert pl.DataFrame(steps).select(pl.corr("predicted", "measured")).item() > 0.99
