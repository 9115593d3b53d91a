"""`gradsim run`: that nothing is stale when it says that it is done."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets_tests.support.changing_home import ChangingHome
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: What a change of the paraphrases reaches before the analyses, of both shards.
BEFORE_ANALYSES = {
    (table, shard)
    for shard in ("00", "01")
    for table in (
        *("paraphrased", "bm25_candidates", "model_generated", "dot_products_paraphrased"),
        *("dot_products_model_generated", "projected_similarity_paraphrased", "projected_similarity_model_generated"),
    )
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed; tests change copies of it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        model = save_tiny_model(tmp_path_factory.mktemp("model"))
        home = ChangingHome(tmp_path_factory.mktemp("finished"), model, monkeypatch, {"shards": 2})
        home.write_samples(4)
        home.run()
        assert home.out_of_date() == {}
        yield home


@pytest.fixture
def home(finished: ChangingHome, tmp_path: Path) -> ChangingHome:
    return finished.copy(tmp_path)


def swap_paraphrases(home: ChangingHome) -> None:
    """Has another file of paraphrases, in which everybody has those of somebody else."""
    rows = home.rows("paraphrases")
    ids = [row["id"] for row in rows]
    home.write("others", [{**row, "id": ids[place - 1]} for place, row in enumerate(rows)])
    home.data["paraphrases"] = "others.jsonl"
    home.configure()


def test_what_follows_from_a_change_within_a_stage_is_computed_by_the_same_command(home: ChangingHome) -> None:
    swap_paraphrases(home)
    started = time.time()
    home.run("--only", "gradients")
    computed = home.computed(started)
    assert set(computed) == BEFORE_ANALYSES and set(computed.values()) == {1}
    assert not {named for named in home.out_of_date() if named[1]}, "only analyses follow"
    candidates = Tables(str(home.home / "tables")).scan(["bm25_candidates"], [Partition(shard=s) for s in ("00", "01")])
    best = candidates.collect().sort("variant_id", "score", descending=[False, True]).group_by("variant_id").first()
    assert (best["variant_id"] != best["original_id"]).all(), "BM25 saw the other file"


def test_figures_from_stale_tables_are_no_success(home: ChangingHome) -> None:
    swap_paraphrases(home)
    home.run("--only", "datasets")
    done = home.command("run", home.model_id, "--only", "analyses")
    assert done.exit_code == 1
    assert "✗ These figures are made from 10 stale partitions (such as " in done.output
    assert f"`gradsim run {home.model_id}` computes them again." in done.output
