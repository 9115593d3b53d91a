"""An index of the originals: what it holds, what makes it stale, and what other slices leave: real homes and runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import gradsim_assets
from gradsim_assets.configuration import load_settings
from gradsim_assets.core.index.search import Search
from gradsim_assets.defs.index.stored_index import StoredIndex
from gradsim_assets.runs.tracing import traces_of
from gradsim_assets_tests.support.changing_home import ChangingHome
from gradsim_assets_tests.support.edits import forget
from gradsim_assets_tests.support.tiny_models import save_tiny_model

pytest.importorskip("faiss")  # of the extra `compute`

ROUNDING = 2**-11  # of float16, in numbers that are below 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChangingHome:
    forget()
    folder = save_tiny_model(tmp_path / "model", positions=256)
    made = ChangingHome(tmp_path / "home", folder, monkeypatch, {"shards": 1}, index={"dimension": 64, "slices": 2})
    made.write_samples(5)
    made.run("--only", "index")
    return made


def sketches(home: ChangingHome) -> dict[str, np.ndarray]:
    frame = gradsim_assets.scan("gradient_index", home.model_id).collect()
    assert frame["id"].to_list() == [row["id"] for row in home.rows("originals")], "every original once, in order"
    return dict(zip(frame["id"], frame["sketch"].to_numpy().astype(np.float32), strict=True))


def stale(home: ChangingHome) -> dict[str, str]:
    return {part: status for (table, part), status in home.out_of_date().items() if table == "gradient_index"}


def test_an_index_follows_what_it_is_made_from_and_nothing_else(home: ChangingHome) -> None:
    first = sketches(home)
    assert all(one.shape == (64,) and abs(np.linalg.norm(one) - 1) < 1e-3 for one in first.values())
    assert stale(home) == {}

    home.data.update(candidates=2)
    home.configure()
    assert stale(home) == {}

    home.index.update(slices=3)
    home.configure()
    home.run("--only", "index")
    other = sketches(home)
    for name, one in first.items():  # whatever slice an original is in
        assert np.abs(other[name] - one).max() <= ROUNDING

    home.index.update(slices=2)
    home.configure()
    assert set(stale(home)) == {"00", "01"}, "those of three slices hold others"
    home.run("--only", "index")
    before = home.now()
    home.run("--only", "gradients")
    assert not home.runs_since(before, "gradient_index")
    left = sorted(place for place in home.tables() if place.startswith("gradient_index"))
    assert [place.partition("slice=")[2][:2] for place in left] == ["00", "01"], "what three slices left is gone"

    home.index.update(dimension=128)
    home.configure()
    assert set(stale(home)) == {"00", "01"}
    rows = home.rows("originals")
    rows[-1]["messages"][1]["content"] += " And more."
    home.write("originals", rows)
    home.run("--only", "index")
    assert all(one.shape == (128,) for one in sketches(home).values()) and stale(home) == {}


def test_a_damaged_index_is_refused(home: ChangingHome) -> None:
    (path,) = (home.home / "tables" / "gradient_index").glob("*/slice=00/*.parquet")
    frame = pl.read_parquet(path)
    zeros = pl.Series("sketch", np.zeros((frame.height, 64), np.float16))
    from gradsim_assets.core.tables import soundness

    assert soundness.sketch_findings(frame, 64) == []
    (said,) = soundness.sketch_findings(frame.with_columns(zeros), 64)
    assert said == f"{frame.height} sketches are not of length 1, such as that of {frame['id'][0]}"
    assert soundness.sketch_findings(frame.with_columns(zeros, length=pl.lit(0.0)), 64) == []
    broken = pl.Series("sketch", np.full((frame.height, 64), np.nan, np.float16))
    assert len(soundness.sketch_findings(frame.with_columns(broken), 64)) == 1
    assert soundness.sketch_findings(frame, 128) == [
        "sketches are Array(Float16, shape=(64,)), and have 128 numbers each"
    ]


def test_an_index_that_nobody_asked_for_is_not_made(home: ChangingHome) -> None:
    home.index.clear()
    home.configure()
    done = home.command("run", home.model_id, "--only", "index")
    assert done.exit_code == 2 and "put [index] into gradsim.toml first" in done.output
    assert stale(home) == {}


def traced(home: ChangingHome, *arguments: str) -> dict[str, Any]:
    asked = ("--prompt", "How do I make a starter?", "--answer", "Flour, water and a week.")
    done = home.command("trace", home.model_id, *asked, *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_a_trace_against_the_index_is_exact_in_its_order_and_says_what_the_index_finds(home: ChangingHome) -> None:
    unmeasured = traced(home, "--against", "index", "--rerank", "3")
    assert unmeasured["provenance"]["recall"] == "recall of the index was not measured"
    home.run("--only", "datasets")
    home.run("--only", "index")
    for method in ("cosine", "dot_product"):
        every = {row["original_id"]: row for row in traced(home, "--method", method)["originals"]}
        found = traced(home, "--against", "index", "--rerank", "3", "--method", method)
        assert [row["rank"] for row in found["originals"]] == [1, 2, 3]
        order = [row["original_id"] for row in found["originals"]]
        assert order == sorted(order, key=lambda name: every[name]["rank"]), "the order is exact"
        for row in found["originals"]:
            assert row["similarity"] == pytest.approx(every[row["original_id"]]["similarity"], abs=1e-6)
            assert row["bm25_rank"] == every[row["original_id"]]["bm25_rank"], "of all originals"
    assert found["provenance"]["against"] == "index:3"
    assert found["provenance"]["recall"] == "recall is not known for so few"
    whole = traced(home, "--against", "index")
    assert len(whole["originals"]) == 5 and whole["provenance"]["recall"] == "recall@5 1.000 among 5 (5 queries)"
    both = traced(home, "--against", "bm25:1+index:1")
    assert 1 <= len(both["originals"]) <= 2 and min(row["bm25_rank"] for row in both["originals"]) == 1

    home.index.update(dimension=128)
    home.configure()
    home.run("--only", "index")  # and its recall with it
    other = traced(home, "--against", "index")["provenance"]
    assert other["index"] != whole["provenance"]["index"] and other["recall"].startswith("recall@5 1.000")


def test_a_server_opens_an_index_once_and_anew_when_it_or_the_originals_have_changed(
    home: ChangingHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    search = StoredIndex.search

    def counted(index: StoredIndex, by_length: bool = False) -> Search:
        opened.append(index.digest)
        return search(index, by_length)

    monkeypatch.setattr(StoredIndex, "search", counted)
    tracing = traces_of(load_settings(), home.launcher)

    def found(prompt: str, method: str = "cosine") -> pl.DataFrame:
        trace, _ = tracing.trace(home.model_id, prompt, "Flour, water.", method, against="index:3")
        return trace.originals

    assert found("How?").height == found("And why?").height == 3
    assert len(opened) == 1
    found("How?", "dot_product")
    found("How long?", "dot_product")
    assert len(opened) == 2, "products are searched for by other numbers"
    rows = home.rows("originals")
    for row in rows:
        row["messages"][0]["content"] += " Tell me of zebras."
    home.write("originals", rows)
    home.run("--only", "index")
    changed = found("How do zebras bake?")
    assert len(opened) == 3 and len(set(opened)) == 2
    assert changed["bm25_score"].max() != 0.0, "zebras stand in the texts of now alone"
    fresh = traces_of(load_settings(), home.launcher).trace(
        home.model_id, "How do zebras bake?", "Flour, water.", against="index:3", split=4
    )
    assert fresh[0].originals["bm25_score"].to_list() == changed["bm25_score"].to_list()


def pairs(home: ChangingHome, table: str) -> set[tuple[str, str]]:
    frame = gradsim_assets.scan(table, home.model_id if table != "bm25_candidates" else None)
    found: list[tuple[str, str]] = frame.select("variant_id", "original_id").unique().collect().rows()
    return set(found)


def chosen(home: ChangingHome) -> dict[str, list[tuple[str, str, int]]]:
    """By setting what the index has chosen, whatever shard it stands in."""
    return {
        setting: gradsim_assets.scan(f"index_candidates_{setting}", home.model_id)
        .sort("variant_id", "rank")
        .select("variant_id", "original_id", "rank")
        .collect()
        .rows()
        for setting in ("paraphrased", "model_generated")
    }


#: What an index and the candidates of it are made from and decide, up to the products.
LOOKED_UP = [
    *("lima", "paraphrased", "bm25_candidates", "model_generated", "gradient_index"),
    *(
        f"{table}_{setting}"
        for table in ("index_candidates", "dot_products")
        for setting in ("paraphrased", "model_generated")
    ),
]


def named(home: ChangingHome) -> set[str]:
    return {table for table, _ in home.out_of_date()}


def test_an_index_gives_candidates_beside_bm25_and_what_follows_sees_both(home: ChangingHome) -> None:
    home.data.update(candidates="bm25:1+index:2")
    home.configure()
    done = home.run()
    assert home.out_of_date() == {}
    assert "The candidates are bm25:1+index:2: the model's own index of gradients has chosen rivals" in done.output
    before = chosen(home)
    for setting in before:
        assert {variant for variant, _, _ in before[setting]} == {row["id"] for row in home.rows("paraphrases")}
        both = pairs(home, "bm25_candidates") | pairs(home, f"index_candidates_{setting}")
        for table in ("dot_products", "projected_similarity", "gradient_similarity"):
            assert pairs(home, f"{table}_{setting}") == both
        frame = gradsim_assets.scan(f"retrieval_{setting}", home.model_id).collect()
        assert not frame.filter(method="bm25")["accuracy"].is_null().any(), "BM25 has a score for every pair"
    (page,) = (home.home / "reports").glob("*/index.html")
    assert "the model&#39;s own index of gradients has chosen rivals beside BM25&#39;s" in page.read_text()
    told = home.command("explain", "dot_products_paraphrased", home.model_id, home.rows("originals")[0]["id"])
    assert told.exit_code == 0 and "index_candidates_paraphrased" in told.output and "gradient_index" in told.output

    # Slices and shards decide nothing.
    home.index.update(slices=1)
    home.data.update(shards=2)
    home.configure()
    home.run("--only", "gradients")
    assert chosen(home) == before and not named(home) & set(LOOKED_UP)

    # What is asked of the index alone leaves the index, the texts and BM25's candidates as they are.
    home.data.update(candidates="bm25:1+index:3")
    home.configure()
    assert named(home) & set(LOOKED_UP) == {"index_candidates_paraphrased", "index_candidates_model_generated"}
    planned = {table for table, _ in home.planned()}
    assert {"dot_products_paraphrased", "retrieval_paraphrased", "report"} <= planned
    assert not planned & {"lima", "paraphrased", "bm25_candidates", "model_generated", "gradient_index"}

    # Without the index all is as BM25 alone has it.
    home.data.update(candidates=1)
    home.index.clear()
    home.configure()
    assert {"dot_products_paraphrased", "dot_products_model_generated"} <= {table for table, _ in home.planned()}
    home.run("--only", "gradients")
    assert pairs(home, "dot_products_paraphrased") == pairs(home, "bm25_candidates")


def test_candidates_of_the_index_alone_and_of_another_model_leave_this_one_alone(home: ChangingHome) -> None:
    home.data.update(candidates=2)
    home.configure()
    home.run("--only", "gradients")
    before = home.now()
    other = save_tiny_model(home.root / "other", positions=256)
    text = (home.root / "gradsim.toml").read_text()
    (home.root / "gradsim.toml").write_text(f'{text}\n[[models]]\nid = "{other}"\ncandidates = "index:2"\n')
    assert not named(home) & set(LOOKED_UP), "of this model nothing is looked up"
    home.run("--only", "gradients")
    assert not home.runs_since(before, "dot_products"), "and nothing computed again"
    told = home.command("explain", "dot_products_paraphrased", home.model_id, home.rows("originals")[0]["id"])
    assert told.exit_code == 0 and "index_candidates" not in told.output, told.output
    done = home.command("run", str(other), "--only", "gradients")
    assert done.exit_code == 0, done.output
    frame = gradsim_assets.scan("dot_products_paraphrased", str(other))
    found = frame.select("variant_id", "original_id").unique().collect().rows()
    looked_up = gradsim_assets.scan("index_candidates_paraphrased", str(other)).collect()
    assert set(found) == set(looked_up.select("variant_id", "original_id").rows()) and len(found) == 10
    assert {variant for variant, _ in found} == {variant for variant, original in found if variant == original}
    assert all("index_candidates" not in table for table, _ in home.planned())


def test_what_the_index_does_not_know_is_refused(home: ChangingHome) -> None:
    asked = ("trace", home.model_id, "--prompt", "How?", "--answer", "So.", "--against", "index")
    refused = home.command(*asked, "--method", "*.mlp.*")
    assert refused.exit_code == 2 and "the index holds plain gradients of all components" in refused.output
    home.index.clear()
    home.configure()
    refused = home.command(*asked)
    assert refused.exit_code == 2 and "there is no index; put [index] into gradsim.toml" in refused.output
