"""`gradsim run`: that nothing is stale when it says that it is done."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

import gradsim_assets
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.defs.checks.tables_up_to_date import status_records
from gradsim_assets_tests.support.changing_home import ChangingHome, finished_home
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
    with finished_home(tmp_path_factory, {"shards": 2}) as home:
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


def deleted(file: Path, _: Path) -> None:
    file.unlink()


def truncated(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def of_another_shard(file: Path, sibling: Path) -> None:
    file.write_bytes(sibling.read_bytes())


def foreign(file: Path, _: Path) -> None:
    pl.read_parquet(file, hive_partitioning=False).write_parquet(file)


@pytest.mark.parametrize(
    ("table", "harm", "said"),
    [
        ("bm25_candidates", deleted, "is missing"),
        ("dot_products/model_generated", truncated, "is not the file that was written"),
        ("model_generated", of_another_shard, "is not the file that was written"),
        ("lima", foreign, "is not the file that was written"),
        ("reports", deleted, "is missing"),
    ],
)
def test_a_file_that_is_lost_is_computed_again_and_nothing_else(
    home: ChangingHome, table: str, harm: Callable[[Path, Path], None], said: str
) -> None:
    file, sibling = files_of(home, table)
    whole = file.read_bytes()
    harm(file, sibling)
    named = {"reports": ("report", ""), "lima": ("lima", "")}.get(table, (table.replace("/", "_"), "01"))
    launcher = home.launcher
    (record,) = status_records(launcher.instance, launcher.repository.asset_graph, launcher.files())
    assert record.data["status"] == "missing"
    assert f"{file} {said}" in str(record.data["why"]) and "`gradsim run " in str(record.data["why"])
    asked = home.command("backfill", "--stale").output
    assert ": 1 partitions of 1 assets" in asked, "what was there once is not left alone"
    started = time.time()
    home.run()
    assert home.computed(started) == {named: 1}
    assert home.out_of_date() == {}
    if file.suffix == ".parquet":
        assert pl.read_parquet(file).equals(pl.read_parquet(io.BytesIO(whole)))


def files_of(home: ChangingHome, table: str) -> tuple[Path, Path]:
    """A file of a table, of the last shard where it has shards, and one beside it."""
    if table == "reports":
        return (*(home.home / "reports" / home.slug).glob("index.html"), home.root)
    found = sorted((home.home / "tables" / table).rglob("data.parquet"))
    return found[-1], found[0]


def test_a_chain_names_the_file_that_it_lacks_and_what_computes_it(home: ChangingHome) -> None:
    file, _ = files_of(home, "bm25_candidates")
    truncated(file, file)
    sample = home.rows("originals")[-1]["id"]  # in the last shard
    done = home.command("explain", "dot_products_paraphrased", home.model_id, sample)
    assert done.exit_code == 0 and f"MISSING: {file} is not the file that was written" in done.output
    file, _ = files_of(home, "lima")
    file.unlink()
    first = home.command("explain", "model_generated", home.model_id, sample)
    assert (
        first.exit_code == 0 and f"MISSING: {file} is missing; `gradsim run MODEL` computes it again." in first.output
    )


def edited(home: ChangingHome, name: str, place: int) -> None:
    """One message of a file of samples reads otherwise."""
    rows = home.rows(name)
    rows[place]["messages"][0]["content"] += " Please answer at length."
    home.write(name, rows)


def test_an_edited_paraphrase_costs_its_own_shard_and_what_follows(home: ChangingHome) -> None:
    edited(home, "paraphrases", -1)
    started = time.time()
    home.run()
    computed = home.computed(started)
    assert {named for named in computed if named[1]} == {named for named in BEFORE_ANALYSES if named[1] == "01"}
    assert set(computed.values()) == {1} and ("retrieval_paraphrased", "") in computed
    assert ("lima", "") not in computed and ("parameters_per_component", "") not in computed
    assert home.out_of_date() == {} and home.passes(started) == 1


def test_an_edited_original_costs_whatever_was_compared_with_it(home: ChangingHome) -> None:
    edited(home, "originals", 0)
    started = time.time()
    home.run("--only", "gradients")
    assert set(home.computed(started)) == BEFORE_ANALYSES | {("lima", ""), ("sample_columns", "")}
    assert home.passes(started) == 2, "once for every shard"


def test_a_file_that_lies_elsewhere_is_no_change(home: ChangingHome) -> None:
    for name in ("originals", "paraphrases"):
        (home.root / f"{name}.jsonl").rename(home.root / f"moved_{name}.jsonl")
        home.data[name] = f"moved_{name}.jsonl"
    home.configure()
    assert "Everything is there and up to date." in home.run().output


def test_a_source_that_cannot_be_read_is_no_success(home: ChangingHome) -> None:
    (home.root / "paraphrases.jsonl").unlink()
    done = home.command("run", home.model_id)
    assert done.exit_code == 2 and "paraphrases.jsonl does not exist" in done.output


@pytest.mark.parametrize("shards", [1, 4])
def test_another_number_of_shards_is_computed_anew_and_leaves_nothing_behind(home: ChangingHome, shards: int) -> None:
    home.data["shards"] = shards
    home.configure()
    refused = home.command("run", home.model_id, "--only", "analyses", "--force")
    assert refused.exit_code == 1 and ("is one of 2 shards, and there are 1 now" in refused.output or shards == 4)
    started = time.time()
    home.run()
    assert home.out_of_date() == {} and home.passes(started) == shards
    keys = {f"{number:02d}" for number in range(shards)}
    assert {path.name for path in (home.home / "tables").rglob("shard=*")} == {f"shard={key}" for key in keys}
    originals = gradsim_assets.scan("lima").collect()
    products = gradsim_assets.scan("dot_products", setting="paraphrased").collect()
    assert set(products["variant_id"]) == set(originals["id"]) and set(products["model"]) == {home.model_id}
    assert not products.select("variant_id", "original_id", "component").is_duplicated().any()


def test_scan_reads_what_is_registered_and_refuses_what_does_not_belong_together(home: ChangingHome) -> None:
    tables = Tables(str(home.home / "tables"))
    path, place = ("dot_products", "paraphrased"), Partition(home.slug, "00")
    frame, source = tables.read(path, place), tables.provenance(path, place)
    tables.write(
        path, frame, Partition("removed--model", "00"), {**source, "partition": "model=removed--model shard=00"}
    )
    whole = gradsim_assets.scan("dot_products_paraphrased").collect()
    assert set(whole["model"]) == {home.model_id} and set(whole["variant_id"]) == {
        r["id"] for r in home.rows("originals")
    }
    with pytest.raises(InputError, match="removed/model is not registered"):
        gradsim_assets.scan("dot_products_paraphrased", model="removed/model")
    tables.write(path, frame, place, {**source, "revision": "another"})
    with pytest.raises(InputError, match="mixes revisions"):
        gradsim_assets.scan("dot_products", home.model_id, "paraphrased")
    Path(str(tables.path(path, place))).unlink()
    with pytest.raises(InputError, match=r"lacks model=.* shard=00; `gradsim run "):
        gradsim_assets.scan("dot_products", setting="paraphrased")


EVALUATION = {
    (f"{table}_{setting}", "")
    for table in ("first_order", "tail_patch")
    for setting in ("paraphrased", "model_generated")
}


def test_the_evaluation_is_made_on_request_and_kept_up_to_date_after(home: ChangingHome) -> None:
    page, predicts = home.home / "reports" / home.slug / "index.html", "as the product of their gradients predicts"
    assert not any(name.startswith(("first_order", "tail_patch")) for name in home.tables())
    assert "What the scores mean" not in page.read_text()
    started = time.time()
    assert "is not retrained: nothing under [training] says" in home.run("--only", "evaluation").output
    assert set(home.computed(started)) == {*EVALUATION, ("report", "")}
    assert page.read_text().count("say under [training] how it was made") == 2
    assert "What the scores mean" in page.read_text() and page.read_text().count(predicts) == 2
    assert home.out_of_date() == {}
    assert not list((home.home / "scratch" / "evaluation").rglob("*.json"))

    swap_paraphrases(home)
    started = time.time()
    home.run()
    assert set(home.computed(started)) >= EVALUATION
    assert page.read_text().count(predicts) == 2
    assert home.out_of_date() == {}


HALVES = {("subset_losses", "00"), ("subset_losses", "01")}
ALL_PAIRS, SCORED = (
    {(f"{table}_{setting}", "") for table in tables for setting in ("paraphrased", "model_generated")}
    for tables in (("all_pairs", "all_pairs_projected"), ("linear_datamodeling_score", "removal"))
)


def test_a_model_is_made_again_on_request_where_the_configuration_says_how(home: ChangingHome) -> None:
    page, predicts = home.home / "reports" / home.slug / "index.html", "models made again from halves of the originals"
    home.training.update(steps=3, batch_size=2, learning_rate=1e-3)
    home.evaluation.update(subsets=2, removal_variants=2, removal_draws=1)
    home.configure()
    started = time.time()
    home.run()
    assert home.computed(started) == {}, "nobody has asked for it"
    home.run("--only", "evaluation")
    assert set(home.computed(started)) == {*EVALUATION, *HALVES, *ALL_PAIRS, *SCORED, ("report", "")}
    assert home.out_of_date() == {}
    assert page.read_text().count(predicts) == 2 and "say under [training]" not in page.read_text()
    losses = gradsim_assets.scan("subset_losses", home.model_id).collect()
    assert losses.height == 2 * 3 * len(home.rows("originals"))
    assert losses.filter(setting="original").group_by("subset").agg(pl.col("in_subset").sum())[
        "in_subset"
    ].to_list() == [2, 2]
    trained = {path: path.stat().st_mtime_ns for path in (home.home / "retrainings").rglob("*.json")}

    lost = Tables(str(home.home / "tables")).path(["subset_losses"], Partition(home.slug, subset="01"))
    Path(str(lost)).unlink()
    before = home.now()
    home.run()
    # All models are compared by their scores, too, which `--only evaluation` left to the next whole run.
    assert set(home.computed_since(before)) == {("subset_losses", "01"), ("model_comparison", "")}
    assert {path: path.stat().st_mtime_ns for path in (home.home / "retrainings").rglob("*.json")} == trained

    home.training["seed"] = 1
    home.configure()
    before = home.now()
    home.run()
    compared = {("report", ""), ("model_comparison", "")}
    assert set(home.computed_since(before)) == {*HALVES, *SCORED, *compared}, "products are the same"
    assert home.out_of_date() == {}
    assert not gradsim_assets.scan("subset_losses", home.model_id).collect().equals(losses)

    home.evaluation["subsets"] = 1 + len(HALVES)
    home.configure()
    home.run()
    assert gradsim_assets.scan("subset_losses", home.model_id).collect()["subset"].n_unique() == 3
    home.evaluation["subsets"] = len(HALVES)
    home.configure()
    home.run()
    assert {place.subset for place in Tables(str(home.home / "tables")).found(["subset_losses"])} == {"00", "01"}


def test_a_run_without_a_model_is_one_of_every_model_that_is_configured(home: ChangingHome) -> None:
    other = save_tiny_model(home.root / "other", seed=1)
    settings = home.root / "gradsim.toml"
    settings.write_text(f'{settings.read_text()}\n[[models]]\nid = "other"\n')
    done = home.command("run", "--only", "gradients")
    assert done.exit_code == 0, done.output
    first, second = done.output.index(f"model {home.model_id}:"), done.output.index(f"model {other}:")
    assert "Everything is there and up to date." in done.output[first:second]
    assert "✓ gradients" in done.output[second:]
    products = gradsim_assets.load("dot_products", setting="paraphrased")
    assert set(products["model"]) == {home.model_id, str(other)}
