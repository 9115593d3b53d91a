"""What changes of preconditioners make stale and what computes it again, beside what `test_changes` shows: real homes and runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from gradsim_assets.core.tables.schemas import PRECONDITIONERS, SETTINGS
from gradsim_assets.defs import code_version as versions
from gradsim_assets_tests.support.changing_home import ChangingHome, Named, finished_home
from gradsim_assets_tests.support.edits import copied_package, forget, replaced
from gradsim_assets_tests.support.same_tables import differences
from gradsim_assets_tests.support.tiny_models import save_optimizer_state

SHARDS = ("00", "01")
ADAM, EKFAC = ({(f"curvature_{kind}", "")} for kind in PRECONDITIONERS)


def each(table: str, *shards: str) -> set[Named]:
    return {(f"{table}_{setting}", shard) for setting in SETTINGS for shard in shards}


PRODUCTS = each("preconditioned_products", *SHARDS)
PLAIN = each("dot_products", *SHARDS) | each("projected_similarity", *SHARDS)
RETRIEVAL = each("retrieval", "") | each("retrieval_by_group", "")
SHOWN = RETRIEVAL | {("report", "")}
COMPARISON = {("model_comparison", "")}


@dataclass(frozen=True)
class Change:
    """A change of a home, and what it costs; `passes` of gradients."""

    make: Callable[[ChangingHome], None]
    stale: set[Named]
    computed: set[Named]
    passes: int
    #: Whether other tables come out.
    changes: bool = True
    core: bool = False


def another_state(home: ChangingHome) -> None:
    save_optimizer_state(home.folder, home.root / "optimizer.pt", seed=1)


def state_elsewhere(home: ChangingHome) -> None:
    (home.root / "optimizer.pt").rename(home.root / "moved.pt")
    home.model["optimizer_state"] = "moved.pt"
    home.configure()


def without_state(home: ChangingHome) -> None:
    del home.model["optimizer_state"]
    home.configure()


def configured(**values: object) -> Callable[[ChangingHome], None]:
    def change(home: ChangingHome) -> None:
        home.preconditioners.update(values)
        home.configure()

    return change


def without_factors(home: ChangingHome) -> None:
    (factors,) = (home.home / "tables" / "curvature" / "ekfac").glob("*/*.safetensors")
    factors.unlink()


def declared(home: ChangingHome) -> None:
    package = copied_package(home.root / "edited")
    line = r"^PRECONDITIONERS_VERSION = \d+"
    replaced("core/gradients/numerics_version.py", line, "PRECONDITIONERS_VERSION = 999")(package)
    home.monkeypatch.setattr(versions, "PACKAGE", package)
    forget()


CHANGES = {
    "optimizer state": Change(another_state, ADAM, ADAM | PRODUCTS | SHOWN | COMPARISON, 2, core=True),
    "optimizer state moved": Change(state_elsewhere, set(), set(), 0, changes=False),
    "no optimizer state": Change(without_state, ADAM, ADAM | PRODUCTS | SHOWN | COMPARISON, 2),
    "another damping": Change(configured(damping=0.5), PRODUCTS, PRODUCTS | SHOWN | COMPARISON, 2),
    "another epsilon": Change(configured(epsilon=1e-3), PRODUCTS, PRODUCTS | SHOWN | COMPARISON, 2),
    "other labels": Change(configured(fisher="empirical"), EKFAC, EKFAC | PRODUCTS | SHOWN | COMPARISON, 2),
    "one method less": Change(configured(methods=["ekfac"]), PRODUCTS | RETRIEVAL, PRODUCTS | SHOWN | COMPARISON, 2),
    "none any more": Change(configured(methods=[]), RETRIEVAL, SHOWN | COMPARISON, 0),
    "a file of factors deleted": Change(without_factors, EKFAC, EKFAC, 0, changes=False),
    "the numerics of preconditioners": Change(
        declared, ADAM | EKFAC | PRODUCTS, ADAM | EKFAC | PRODUCTS | SHOWN | COMPARISON, 2, changes=False
    ),
}
ROWS = [pytest.param(name, marks=[] if change.core else pytest.mark.slow) for name, change in CHANGES.items()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed, with both preconditioners and the state of an optimizer."""
    data, asked = {"shards": len(SHARDS), "candidates": 3}, {"methods": list(PRECONDITIONERS)}
    with finished_home(tmp_path_factory, data, {"projections": [0.01]}, asked, positions=256) as home:
        yield home


def test_what_a_home_with_preconditioners_holds(finished: ChangingHome) -> None:
    tables = finished.tables()
    (adam,) = (table for place, table in tables.items() if place.startswith("curvature/adam"))
    (ekfac,) = (table for place, table in tables.items() if place.startswith("curvature/ekfac"))
    assert set(adam["source"]) == {"optimizer_state"} and set(ekfac["source"]) == {"sampled"}
    for setting in SETTINGS:
        places = [place for place in tables if place.startswith(f"preconditioned_products/{setting}")]
        products = pl.concat([tables[place] for place in places])
        plain = pl.concat([t for p, t in tables.items() if p.startswith(f"dot_products/{setting}")])
        assert len(products) == 2 * len(plain) and set(products["preconditioner"]) == set(PRECONDITIONERS)
        # Positive definite: no product is longer than both sides.
        share = products["dot_product"] ** 2 / (products["variant_self"] * products["original_self"])
        assert share.fill_nan(None).max() <= 1 + 1e-5  # type: ignore[operator]
        (retrieval,) = (table for place, table in tables.items() if place.startswith(f"retrieval/{setting}"))
        assert retrieval["method"].to_list()[:3] == ["full_gradient", "adam", "ekfac"]
        assert retrieval.filter(pl.col("method").is_in(PRECONDITIONERS))["accuracy"].null_count() == 0


@pytest.mark.parametrize("name", ROWS)
def test_a_run_computes_what_a_change_of_preconditioners_has_made_stale_and_nothing_else(
    name: str, finished: ChangingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = CHANGES[name]
    forget()
    home = finished.copy(tmp_path / "changed", monkeypatch)
    change.make(home)
    home.look()
    assert set(home.out_of_date()) == change.stale
    before = home.now()
    home.run()
    computed = home.computed_since(before)
    # Whether other figures came out for the comparison of models is seen by the run itself.
    assert set(computed) - COMPARISON == change.computed - COMPARISON and set(computed.values()) <= {1}
    assert home.cost_since(before)[0] == change.passes
    assert home.out_of_date() == {}
    if not change.changes:
        assert differences(home.tables(), finished.tables()) == []
    monkeypatch.undo()
    forget()


ALL_PAIRS = each("all_pairs", "") | each("all_pairs_projected", "")
UNDER = each("all_pairs_preconditioned", "")
#: What is told of methods, those under preconditioners among them.
SCORED = each("linear_datamodeling_score", "") | each("removal", "") | each("tail_patch", "")
METHODS = [f"{name}{end}" for name in PRECONDITIONERS for end in ("", "_dot_product")]


@pytest.mark.slow
def test_preconditioners_are_put_to_the_test_by_retraining(
    finished: ChangingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    home = finished.copy(tmp_path / "retrained", monkeypatch)
    home.training.update(steps=3, batch_size=2, learning_rate=1e-3)
    home.evaluation.update(subsets=2, removal_variants=2, removal_draws=1, variants=2, pairs=2, draws=1)
    home.configure()
    before = home.now()
    home.run("--only", "evaluation")
    computed = home.computed_since(before)
    assert set(computed) >= ALL_PAIRS | UNDER | SCORED and set(computed.values()) == {1}
    assert len(home.runs_since(before, "all_pairs")) == 1, "one pass"
    tables = home.tables()

    def table(name: str) -> pl.DataFrame:
        return pl.concat([found for place, found in tables.items() if place.startswith(f"{name}/")])

    pair = ["variant_id", "original_id", "preconditioner", "component"]
    for setting in SETTINGS:
        every, some = table(f"all_pairs_preconditioned/{setting}"), table(f"preconditioned_products/{setting}")
        assert len(every) == len(PRECONDITIONERS) * len(table(f"all_pairs/{setting}"))
        both = some.join(every, on=pair, suffix="_of_all")
        assert len(both) == len(some)
        # The same sums in other blocks: fp32 rounds each length by some 1e-6.
        off = (pl.col("dot_product") - pl.col("dot_product_of_all")).abs()
        length = (pl.col("variant_self") * pl.col("original_self")).sqrt()
        assert both.select((off <= 1e-5 * length).all()).item()
        for name in ("linear_datamodeling_score", "removal", "tail_patch"):
            assert set(METHODS) <= set(table(f"{name}/{setting}")["method"])

    configured(damping=0.5)(home)
    assert set(home.out_of_date()) == PRODUCTS | UNDER
    before = home.now()
    home.run()
    assert set(home.computed_since(before)) - COMPARISON == PRODUCTS | UNDER | SCORED | SHOWN
    configured(methods=[])(home)
    before = home.now()
    home.run()
    assert set(home.computed_since(before)) - COMPARISON == SCORED | SHOWN
    assert set(METHODS).isdisjoint(set().union(*(t["method"] for p, t in home.tables().items() if "removal/" in p)))
    assert home.out_of_date() == {}
    monkeypatch.undo()
    forget()


@pytest.mark.slow
def test_preconditioners_switched_on_later_leave_the_other_tables_as_they_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = {"shards": 1, "candidates": 3}
    with finished_home(tmp_path_factory, data, {"projections": [0.01]}, positions=256) as home:
        before, tables = home.now(), home.tables()
        configured(methods=["adam"])(home)
        home.run()
        computed = set(home.computed_since(before))
        assert (
            ADAM | each("preconditioned_products", "00")
            <= computed
            <= (ADAM | each("preconditioned_products", "00") | SHOWN | COMPARISON)
        )
        now = home.tables()
        kept = {place: now[place] for place in tables if not place.startswith(("retrieval", "model_comparison"))}
        assert differences(kept, {place: tables[place] for place in kept}) == []
