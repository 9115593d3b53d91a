"""Variants that could not be had, through the whole platform: left out everywhere, counted, and said; nothing in their place."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.orchestration.asset_keys import asset_key, on_request
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.chat_server import REFUSAL, ChatServer
from gradsim_assets_tests.support.tiny_models import save_tiny_model

SHARDS = ("00", "01", "02")

#: 9 originals in 3 shards: one variant of the first shard and all of the second are missing.
ORIGINALS = [{"id": row["id"], "messages": row["messages"]} for row in load_originals()[:9]]
IDS = [row["id"] for row in ORIGINALS]
LOST = {IDS[1], *IDS[3:6]}


@dataclass
class Home:
    """A home after `gradsim run`, and what that printed."""

    folder: Path
    model: str
    printed: str
    config: str
    environment: dict[str, str]

    @property
    def tables(self) -> Tables:
        return Tables(str(self.folder / "tables"))

    def shards(self, table: str, setting: str | None = None) -> dict[str, pl.DataFrame]:
        model = None if table in ("paraphrased", "bm25_candidates") else model_slug(self.model)
        key = [table, setting] if setting else [table]
        return {shard: self.tables.read(key, Partition(model, shard)) for shard in SHARDS}

    def of_model(self, table: str, setting: str) -> pl.DataFrame:
        return self.tables.read([table, setting], Partition(model_slug(self.model)))

    def again(self, *arguments: str) -> str:
        run = gradsim(self.folder, *arguments, config=self.config, **self.environment)
        return run.stdout + run.stderr


def run_in(folder: Path, config: str, **environment: str) -> Home:
    model = str(save_tiny_model(folder / "model"))
    config = f'{config}\n[compute]\ndevice = "cpu"\n[[models]]\nid = "{model}"\n'
    run = gradsim(folder, "run", model, config=config, **environment)
    assert run.returncode == 0, run.stdout + run.stderr
    return Home(folder, model, run.stdout, config, environment)


def data_section(folder: Path, paraphrases: str) -> str:
    originals = folder / "originals.jsonl"
    originals.write_text("".join(json.dumps(row) + "\n" for row in ORIGINALS))
    return f'[data]\noriginals = "{originals}"\nparaphrases = "{paraphrases}"\nshards = {len(SHARDS)}\n'


def written_by_chat_model(folder: Path, plan: Callable[[str, int], str]) -> Home:
    with ChatServer(plan=plan) as server:
        environment = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": server.key}
        return run_in(folder, data_section(folder, "openai"), **environment)


def refused(text: str, nth: int) -> str:
    """A refusal in prose for one text of every lost sample."""
    lost = {row["messages"][row["id"] != IDS[4]]["content"] for row in ORIGINALS if row["id"] in LOST}
    return f"says {REFUSAL}" if text in lost else "ok"


def read_from_file(folder: Path) -> Home:
    """A file with null in the place of messages, of a text, and no row at all for the last original."""
    rows = [{"id": row["id"], "paraphrased_messages": row["messages"]} for row in load_paraphrases()[:9]]
    for row in rows:
        if row["id"] in LOST:
            row["paraphrased_messages"] = None
    user, assistant = (dict(message) for message in load_paraphrases()[4]["messages"])
    rows[4]["paraphrased_messages"] = [user, {**assistant, "content": None}]
    path = folder / "paraphrases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_in(folder, data_section(folder, str(path)))


@pytest.fixture(scope="module", params=["chat", pytest.param("file", marks=pytest.mark.slow)])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp(request.param)
    return written_by_chat_model(folder, refused) if request.param == "chat" else read_from_file(folder)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Not one text could be paraphrased."""
    return written_by_chat_model(tmp_path_factory.mktemp("nothing"), lambda text, nth: "identical")


def test_the_rows_stay_without_messages_and_say_why(home: Home) -> None:
    rows = pl.concat(home.shards("paraphrased").values())
    assert rows["id"].to_list() == IDS
    missing = rows.filter(pl.col("messages").is_null())
    assert set(missing["id"]) == LOST
    why = set(missing["flag"])
    assert why <= {"user: refusal", "assistant: refusal", "no messages in the file", "no assistant text in the file"}
    assert len(why) == 2
    assert rows.filter(pl.col("messages").is_not_null())["flag"].null_count() == len(IDS) - len(LOST)
    own = {row["id"]: row["messages"] for row in ORIGINALS}
    assert not any(row["messages"] == own[row["id"]] for row in rows.to_dicts())


def test_no_table_that_follows_holds_a_missing_variant(home: Home) -> None:
    expected = {"00": {IDS[0], IDS[2]}, "01": set(), "02": set(IDS[6:])}
    for table in ("bm25_candidates", "model_generated"):
        column = "id" if table == "model_generated" else "variant_id"
        assert {shard: set(frame[column]) for shard, frame in home.shards(table).items()} == expected
    for table in ("dot_products", "projected_similarity"):
        for setting in SETTINGS:
            found = {shard: set(frame["variant_id"]) for shard, frame in home.shards(table, setting).items()}
            assert found == expected
    # The original of a missing variant is still a candidate of others.
    assert LOST & set(pl.concat(home.shards("bm25_candidates").values())["original_id"])


def test_figures_are_those_of_the_variants_that_are_there(home: Home) -> None:
    there = len(IDS) - len(LOST)
    for setting in SETTINGS:
        retrieval = home.of_model("retrieval", setting)
        assert set(retrieval["variants"]) == {there}
        assert retrieval["accuracy"].null_count() == 0
        assert home.of_model("gradient_similarity", setting)["variant_id"].n_unique() == there
        assert home.of_model("self_similarity", setting)["variant_id"].n_unique() == there


def test_checks_pass_and_warn_of_what_is_missing(home: Home) -> None:
    with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        records = instance.event_log_storage.get_asset_check_summary_records(_checks(home))
        latest = {
            key: record.last_check_execution_record.event.asset_check_evaluation
            for key, record in records.items()
            if not on_request(key.asset_key)  # nobody has asked for those tables
        }
        sound = [evaluation for key, evaluation in latest.items() if key.name == "sound"]
        assert len(sound) >= 8
        assert [evaluation.description for evaluation in sound if not evaluation.passed] == []
        key = dg.AssetCheckKey(dg.AssetKey("paraphrased"), "no_flags")
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=20)
        found = [record.event.asset_check_evaluation for record in history if record.event]
        warned = {evaluation.partition: evaluation for evaluation in found}
    assert {shard: evaluation.passed for shard, evaluation in warned.items()} == {"00": False, "01": False, "02": True}
    assert "paraphrases are missing" in warned["01"].description
    assert IDS[1] in warned["00"].description


def _checks(home: Home) -> list[dg.AssetCheckKey]:
    from gradsim_assets.configuration import load_settings
    from gradsim_assets.definitions import build_definitions

    settings = load_settings({"GRADSIM_HOME": str(home.folder), "GRADSIM_CONFIG": str(home.folder / "gradsim.toml")})
    return list(build_definitions(settings).get_repository_def().asset_graph.asset_check_keys)


def test_metadata_count_what_is_missing(home: Home) -> None:
    with dg.DagsterInstance.from_config(str(home.folder / "dagster")) as instance:
        for table in ("paraphrased", "bm25_candidates"):
            records = instance.fetch_materializations(dg.AssetKey(table), limit=10).records
            counts = {
                record.partition_key: record.asset_materialization.metadata["missing"].value for record in records
            }
            assert counts == {"00": 1, "01": 3, "02": 0}
        (retrieval,) = instance.fetch_materializations(asset_key("retrieval", "paraphrased"), limit=1).records
    shown = retrieval.asset_materialization.metadata
    assert (shown["variants"].value, shown["missing"].value) == (len(IDS) - len(LOST), len(LOST))


def test_report_summary_and_command_line_say_so(home: Home) -> None:
    folder = home.folder / "reports" / model_slug(home.model)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert f"{len(LOST)} of {len(IDS)} variants are missing, and in no figure: " in page
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["samples"], summary["missing"]) == (len(IDS) - len(LOST), len(LOST))
    assert f"{len(IDS) - len(LOST)} samples ({len(LOST)} missing)" in home.printed


def test_explain_tells_of_a_missing_variant(home: Home) -> None:
    said = home.again("explain", "retrieval/paraphrased", home.model, IDS[4])
    assert f"sample {IDS[4]} has no variant: its paraphrase is missing (" in said
    assert "Traceback" not in said
    there = home.again("explain", "paraphrased", home.model, IDS[4])
    assert IDS[4] in there and "lima" in there
    assert IDS[0] in home.again("explain", "gradient_similarity/paraphrased", home.model, IDS[0])


def test_exports_hold_the_rows_and_count_them(home: Home) -> None:
    target = home.folder / "exported"
    assert "Traceback" not in home.again("export", "paraphrased", str(target))
    exported = pl.read_parquet(target / "data" / "*.parquet")
    assert exported.filter(pl.col("messages").is_null()).height == len(LOST)
    assert f"**missing**: {len(LOST)}" in (target / "README.md").read_text()
    import datasets

    rows = datasets.load_dataset(str(target), split="train", cache_dir=str(home.folder / "cache"))
    assert sum(messages is None for messages in rows["messages"]) == len(LOST)
    said = home.again("export-scripts", str(home.folder / "scripts"), "--model", home.model)
    assert "Traceback" not in said and "dot_product" in said


def test_a_plan_leaves_missing_variants_of_a_file_out(home: Home) -> None:
    if "paraphrases.jsonl" not in home.config:
        pytest.skip("what a chat model will not rewrite is not known before")
    said = home.again("plan", home.model, "--tflops", "1")
    assert f"for {2 * 5 * (len(IDS) - len(LOST))} pairs" in said


def test_nothing_is_left_to_do(home: Home) -> None:
    assert "Everything is there and up to date." in home.again("run", home.model)


@pytest.mark.slow
def test_without_any_variant_every_table_is_there_and_the_report_says_that_nothing_was_scored(nothing: Home) -> None:
    assert all(frame["messages"].null_count() == 3 for frame in nothing.shards("paraphrased").values())
    for setting in SETTINGS:
        assert all(frame.is_empty() for frame in nothing.shards("dot_products", setting).values())
        retrieval = nothing.of_model("retrieval", setting)
        assert set(retrieval["variants"]) == {0}
        assert retrieval["accuracy"].null_count() == retrieval.height
    page = (nothing.folder / "reports" / model_slug(nothing.model) / "index.html").read_text(encoding="utf-8")
    assert "No variant could be scored." in page
    assert f"{len(IDS)} of {len(IDS)} variants are missing" in page
    assert f"0 samples ({len(IDS)} missing)" in nothing.printed
