"""The main job on the embedded default, through the console script, as a newcomer runs it; and what shards do to it."""

import html
import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.analysis.control_comparison import of_full_gradient
from gradsim_assets.core.models.controls import UNTRAINED
from gradsim_assets.core.partition_keys import model_slug, shard_keys
from gradsim_assets.core.tables.schemas import SETTINGS, TABLES
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets_tests.conftest import NOT_OF_THE_DEMO, gradsim
from gradsim_assets_tests.support.running_platform import table_of

BY_MODEL = (
    "gradient_similarity",
    "accuracy_per_component",
    "agreement",
    "greedy_selection",
    "self_similarity",
    "retrieval",
)


def whole(home: Path, table: str, shards: int, setting: str | None = None) -> pl.DataFrame:
    """A table of the demo model over all its shards."""
    key = [table, setting] if setting else [table]
    if table in BY_MODEL:
        return Tables(str(home / "tables")).read(key, Partition("demo"))
    model = None if table in ("paraphrased", "bm25_candidates") else "demo"
    return Tables(str(home / "tables")).scan(key, [Partition(model, shard) for shard in shard_keys(shards)]).collect()


def test_every_table_is_there_in_its_schema(demo: tuple[Path, str]) -> None:
    home, _ = demo
    found = {path.relative_to(home / "tables").parts[0] for path in (home / "tables").rglob("data.parquet")}
    assert found == {path[0] for name, path in PATHS.items() if name not in NOT_OF_THE_DEMO}
    for path in (home / "tables").rglob("data.parquet"):
        schema = TABLES[path.relative_to(home / "tables").parts[0]]
        frame = pl.read_parquet(path, hive_partitioning=False)
        assert schema.enforce(frame).equals(frame)
        has_no_controls = "control_comparison" in path.parts and "model=demo+untrained" in path.parts
        assert (frame.height > 0) is not has_no_controls
        assert not frame.select(schema.key).is_duplicated().any()


def test_the_ui_shows_figures_first_and_plots_no_sizes_over_time(demo: tuple[Path, str]) -> None:
    with dg.DagsterInstance.from_config(str(demo[0] / "dagster")) as instance:
        for name, first in (
            ("retrieval_paraphrased", "accuracy/"),
            ("agreement_model_generated", "agreement of the best"),
        ):
            event = instance.get_latest_materialization_event(dg.AssetKey(name))
            assert event is not None and event.asset_materialization is not None
            metadata = event.asset_materialization.metadata
            names = list(metadata)
            assert names[0].startswith(first)
            assert names.index("preview") < names.index("gradsim/fingerprint")
            numbers = {n for n, v in metadata.items() if isinstance(v, (dg.IntMetadataValue, dg.FloatMetadataValue))}
            assert "size_bytes" not in numbers and names[0] in numbers


def test_rows_are_variants_times_candidates_times_components(demo: tuple[Path, str]) -> None:
    home, _ = demo
    variants, components = (
        114,
        Tables(str(home / "tables")).read(["parameters_per_component"], Partition("demo")).height,
    )
    for setting in SETTINGS:
        assert whole(home, "dot_products", 4, setting).height == variants * 5 * components
        assert whole(home, "projected_similarity", 4, setting).height == variants * 5 * 2
        assert whole(home, "gradient_similarity", 4, setting).height == variants * 5 * (components + 1)


def test_figures_and_the_report_are_printed_and_agree_with_the_summary(demo: tuple[Path, str]) -> None:
    home, printed = demo
    summary = json.loads((home / "reports/demo/summary.json").read_text())
    assert summary["model"] == "demo" and summary["samples"] == 114
    for setting in SETTINGS:
        retrieval = {row["method"]: row for row in whole(home, "retrieval", 4, setting).to_dicts()}
        for method, figures in summary["settings"][setting].items():
            assert figures["accuracy"] == pytest.approx(retrieval[method]["accuracy"])
            assert f"{figures['accuracy']:.3f}" in printed
        assert {"full_gradient", "bm25", "chance", "best_component"} <= set(summary["settings"][setting])
    assert str(home / "reports/demo/index.html") in printed
    page = (home / "reports/demo/index.html").read_text(encoding="utf-8")
    assert "<script src=" not in page and "<link" not in page.split("<script")[0].replace('<link rel="icon"', "")


def test_the_link_of_a_materialised_report_leads_to_where_it_is_served(demo: tuple[Path, str]) -> None:
    with dg.DagsterInstance.from_config(str(demo[0] / "dagster")) as instance:
        made = instance.fetch_materializations(dg.AssetKey("report"), limit=10).records
    links = {one.partition_key: one.asset_materialization.metadata["report"].value for one in made}
    assert links["demo"] == "http://127.0.0.1:3001/reports/demo/"
    assert links["demo+untrained"] == "http://127.0.0.1:3001/reports/demo%2Buntrained/"


def test_the_demo_tells_samples_apart_but_not_perfectly(demo: tuple[Path, str]) -> None:
    home, _ = demo
    for setting in SETTINGS:
        retrieval = dict(whole(home, "retrieval", 4, setting).select("method", "accuracy").iter_rows())
        assert retrieval["full_gradient"] > 2 * retrieval["chance"]
        assert whole(home, "accuracy_per_component", 4, setting)["accuracy"].min() < 1


def test_the_demo_shows_that_training_matters_and_copies_little(demo: tuple[Path, str]) -> None:
    home, _ = demo
    tables = Tables(str(home / "tables"))
    for setting in SETTINGS:
        (beside,) = of_full_gradient(tables.read(["control_comparison", setting], Partition("demo")))
        assert beside["control"] == UNTRAINED and beside["variants"] == 114
        assert beside["difference_low"] > 0
        retrieval = dict(whole(home, "retrieval", 4, setting).select("method", "accuracy").iter_rows())
        assert retrieval["text_overlap"] < 0.95
    assert whole(home, "model_generated", 4)["verbatim"].mean() < 1 / 3


def test_a_second_run_finds_everything_up_to_date(demo: tuple[Path, str]) -> None:
    run = gradsim(demo[0], "demo")
    assert run.returncode == 0
    assert "Everything is there and up to date." in run.stdout


def test_every_file_says_where_it_came_from(demo: tuple[Path, str]) -> None:
    tables = Tables(str(demo[0] / "tables"))
    revision = json.loads((demo[0] / "reports/demo/summary.json").read_text())["revision"]
    for setting in SETTINGS:
        provenance = tables.provenance(["dot_products", setting], Partition("demo", "00"))
        assert provenance["model"] == "demo" and provenance["revision"] == revision
        assert provenance["checked_pairs"] > 0
        assert {"run_id", "package_version", "fingerprint", "lima", "bm25_candidates", setting} <= set(provenance)


def test_every_file_and_the_report_name_the_code_and_the_configuration(demo: tuple[Path, str]) -> None:
    home, _ = demo
    settings = load_settings({"GRADSIM_HOME": str(home), "GRADSIM_CONFIG": str(home / "gradsim.toml")})
    graph = build_definitions(settings).get_repository_def().asset_graph
    page = html.unescape((home / "reports/demo/index.html").read_text(encoding="utf-8"))
    for path in sorted((home / "tables").rglob("data.parquet")):
        key, partition = table_of(path, home / "tables")
        provenance = Tables(str(home / "tables")).provenance(key, partition)
        assert provenance["code_version"] == graph.get(asset_key(*key)).code_version
        assert provenance["configuration"] == settings.fingerprint
        if key[0] == "dot_products" and partition.model == "demo":  # whose page it is, and not its control's
            for entry in ("code_version", "configuration", "fingerprint", "run_id"):
                assert f'"{entry}": "{provenance[entry]}"' in page


def figures(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns that count decisions: these are equal to the last bit whenever no decision changed."""
    counted = [
        c
        for c in frame.columns
        if c.startswith(("accuracy", "mrr", "recall", "wrong")) or not frame[c].dtype.is_float()
    ]
    return frame.select(counted)


@pytest.mark.parametrize("shards", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_shards_change_no_figure(shards: int, demo: tuple[Path, str], tmp_path: Path) -> None:
    home, _ = demo
    shutil.copytree(home / "models", tmp_path / "models")  # the same model, built once
    run = gradsim(tmp_path, "run", "demo", shards=shards)
    assert run.returncode == 0, run.stdout + run.stderr
    for table in ("paraphrased", "bm25_candidates", "model_generated"):
        assert whole(tmp_path, table, shards).equals(whole(home, table, 4))
    for setting in SETTINGS:
        here, there = whole(tmp_path, "dot_products", shards, setting), whole(home, "dot_products", 4, setting)
        assert here.select("variant_id", "original_id", "component").equals(
            there.select("variant_id", "original_id", "component")
        )
        # Sums are taken in another order where blocks differ: rounding of fp32, relative to the lengths of the two
        # gradients. A memorised answer has next to no gradient (1 - p of a token is all rounding), hence the two bounds.
        lengths = pl.col("variant_self", "original_self").sqrt()
        scale = (there.select(lengths)["variant_self"] * there.select(lengths)["original_self"]).clip(1e-12)
        error = (here["dot_product"] - there["dot_product"]).abs() / scale
        assert error.quantile(0.95) < 1e-5
        assert error.max() < 1e-2
        for table in ("accuracy_per_component", "retrieval"):
            assert figures(whole(tmp_path, table, shards, setting)).equals(figures(whole(home, table, 4, setting)))


@pytest.mark.parametrize(
    ("arguments", "config", "sentence"),
    [
        (["run", "no/such-model"], "", "no/such-model"),
        (
            ["run", "demo"],
            "[data]\nsamples = 72\nshards = 99\n",
            "99 shards are more than the 72 samples; set data.shards to 72 or less",
        ),
        (["run", "demo"], "[data]\nshard = 1\n", "unknown key data.shard; did you mean shards?"),
        (["run", "demo"], '[data]\noriginals = "none.parquet"\n', "none.parquet does not exist"),
        (["models", "remove", "org/name"], "", "org/name is not registered"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_leaves_nothing(
    arguments: list[str], config: str, sentence: str, tmp_path: Path, demo: tuple[Path, str]
) -> None:
    shutil.copytree(demo[0] / "models", tmp_path / "models")
    run = gradsim(tmp_path, *arguments, config=config)
    assert run.returncode in (1, 2)
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr
    assert not list((tmp_path / "tables").rglob("*.part")) if (tmp_path / "tables").exists() else True


def test_models_are_added_listed_and_removed(tmp_path: Path) -> None:
    (tmp_path / "step1").mkdir()
    (tmp_path / "step1/config.json").write_text("{}")
    model = str(tmp_path / "step1")
    slug = model_slug(model)
    assert gradsim(tmp_path, "models", "add", model).stdout.splitlines()[0] == slug
    assert [model, slug] in [line.split()[:2] for line in gradsim(tmp_path, "models", "list").stdout.splitlines()]
    assert gradsim(tmp_path, "models", "remove", model).returncode == 0
    assert model not in gradsim(tmp_path, "models", "list").stdout


def test_definitions_load_without_what_is_heavy() -> None:
    heavy = ("torch", "transformers", "datasets", "kubernetes", "trak", "matplotlib", "plotly", "openai")
    code = (
        "import sys, gradsim_assets.definitions as d\n"
        "from gradsim_assets.configuration import load_settings\n"
        "d.build_definitions(load_settings({})).get_repository_def()\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert run.stdout.strip() == "[]"
