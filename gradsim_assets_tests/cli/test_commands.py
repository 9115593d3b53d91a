"""Commands beside the main job: plan, export, the predecessor's files, paraphrasing through a chat service."""

import json
import re
import shutil
from pathlib import Path

import datasets
import polars as pl
from click.testing import CliRunner

from gradsim_assets.cli.main import main
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets_tests.conftest import NOT_OF_THE_DEMO, environment_of, gradsim
from gradsim_assets_tests.support.chat_server import ChatServer

METHODS = ("full_gradient", "bm25", "best_component", "chance")


def test_a_plan_says_what_a_run_would_cost_and_computes_nothing(demo: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(demo[0] / "models", tmp_path / "models")
    run = gradsim(tmp_path, "plan", "demo", "--memory-gib", "1", "--tflops", "0.1")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("backward passes") == 5  # four shards and the sum
    assert "at 0.10 TFLOP/s" in run.stdout
    assert not (tmp_path / "tables").exists()
    assert "for 1140 pairs" in run.stdout  # 114 variants x 5 candidates, in two settings
    config = '[data]\nshards = 4\n[[models]]\nid = "demo"\ncandidates = 9\n'
    more = gradsim(tmp_path, "plan", "demo", "--memory-gib", "1", "--tflops", "0.1", config=config)
    assert "for 2052 pairs" in more.stdout, more.stderr


def test_what_a_control_plane_lacks_is_named(tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    run = gradsim(tmp_path, "plan", "demo", PYTHONPATH=str(lacking))
    assert run.returncode == 1
    assert run.stderr.startswith("Error: `gradsim plan` needs torch, which is not installed here; run it where")
    assert "Traceback" not in run.stderr


def test_an_export_opens_with_datasets_and_tells_its_lineage(demo: tuple[Path, str], tmp_path: Path) -> None:
    home, _ = demo
    run = gradsim(home, "export", "dot_products_paraphrased", str(tmp_path / "out"), "--model", "demo")
    assert run.returncode == 0, run.stderr
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    parts = [Partition("demo", f"{n:02d}") for n in range(4)]
    table = Tables(str(home / "tables")).scan(["dot_products", "paraphrased"], parts).collect()
    assert loaded.num_rows == table.height
    assert loaded["dot_product"][:10] == table["dot_product"][:10].to_list()
    lineage = json.loads((tmp_path / "out/lineage.json").read_text())["lineage"]
    assert len(lineage["partitions"]) == 4
    assert lineage["partitions"][0]["revision"]


def test_a_table_that_is_not_there_is_told(demo: tuple[Path, str], tmp_path: Path) -> None:
    run = gradsim(demo[0], "export", "nonsense", str(tmp_path / "out"))
    assert run.returncode == 2 and "there is no table nonsense; known tables: accuracy_per" in run.stderr
    run = gradsim(demo[0], "export", "retrieval/paraphrased", str(tmp_path / "out"), "--model", "org/other")
    assert run.returncode == 2 and "holds nothing of org--other" in run.stderr


def test_every_table_is_exported(demo: tuple[Path, str], tmp_path: Path) -> None:
    # In this process: that many starts of a command would take a minute.
    runner = CliRunner(env=environment_of(demo[0]))
    for name in PATHS:
        run = runner.invoke(main, ["export", name, str(tmp_path / name)])
        if name in NOT_OF_THE_DEMO:
            assert run.exit_code == 2 and "holds nothing" in run.output and not (tmp_path / name).exists()
            continue
        assert run.exit_code == 0, f"{name}: {run.output}"
        assert datasets.load_dataset(str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")).num_rows


def test_exported_scripts_files_come_back_with_the_same_figures(demo: tuple[Path, str], tmp_path: Path) -> None:
    home, _ = demo
    run = gradsim(home, "export-scripts", str(tmp_path / "data"), "--model", "demo")
    assert run.returncode == 0, run.stderr
    for folder in [path for path in (tmp_path / "data").rglob("demo") if path.is_dir()]:
        (folder.parent / "org").mkdir()
        folder.rename(folder.parent / "org/demo")
    config = next((home / "models/demo").glob("*/config.json"))
    other = tmp_path / "home"
    run = gradsim(other, "import-scripts", str(tmp_path / "data"), "--model", "org/demo", "--config", str(config))
    assert run.returncode == 0, run.stdout + run.stderr
    run = gradsim(other, "run", "org/demo", "--only", "analyses")
    assert run.returncode == 0, run.stdout + run.stderr
    ours = json.loads((home / "reports/demo/summary.json").read_text())
    theirs = json.loads((other / "reports/org--demo/summary.json").read_text())
    assert theirs["parameters"] == ours["parameters"]
    for setting, methods in ours["settings"].items():
        for method in METHODS:
            assert theirs["settings"][setting][method]["accuracy"] == methods[method]["accuracy"]
    # Parts of 10 shards in place of 4: what was imported is exported again as it came.
    run = gradsim(other, "export-scripts", str(tmp_path / "again"), "--model", "org/demo")
    assert run.returncode == 0, run.stderr
    for path in (tmp_path / "data/dot_products").rglob("*.json"):
        again = tmp_path / "again" / path.relative_to(tmp_path / "data")
        assert json.loads(again.read_text()) == json.loads(path.read_text())


def test_nothing_to_analyse_is_told(tmp_path: Path) -> None:
    run = gradsim(tmp_path, "run", "org/none", "--only", "analyses")
    assert run.returncode == 2
    assert "org/none has no gradient tables yet" in run.stderr


def test_a_chat_service_writes_the_paraphrases_and_is_asked_once(tmp_path: Path) -> None:
    config = '[data]\nsamples = 6\nshards = 2\nparaphrases = "openai"\n'
    with ChatServer() as server:
        service = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": server.key}
        run = gradsim(tmp_path, "run", "demo", "--only", "datasets", config=config, **service)
        assert run.returncode == 0, run.stdout + run.stderr
        asked = len(server.asked)
        run = gradsim(tmp_path, "run", "demo", "--only", "datasets", "--force", config=config, **service)
        assert run.returncode == 0, run.stdout + run.stderr
        assert len(server.asked) == asked >= 12
        key = server.key
    frame = Tables(str(tmp_path / "tables")).scan(["paraphrased"], [Partition(shard=s) for s in ("00", "01")]).collect()
    assert frame.height == 6
    assert frame["paraphrase_model"].unique().to_list() == ["gpt-4o-mini-2024-07-18"]
    assert frame["completion_tokens"].min() > 0
    originals = Tables(str(tmp_path / "tables")).read(["lima"])
    assert not frame["messages"].equals(originals["messages"])
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert not [path for path in kept if key.encode() in path.read_bytes()]
    assert pl.read_parquet(tmp_path / "tables/paraphrased/shard=00/data.parquet", hive_partitioning=False).height == 3


def test_a_wrong_key_ends_in_a_sentence(tmp_path: Path) -> None:
    config = '[data]\nsamples = 6\nshards = 2\nparaphrases = "openai"\n'
    with ChatServer() as server:
        service = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-wrong-0123456789abcdef"}
        run = gradsim(tmp_path, "run", "demo", "--only", "datasets", config=config, **service)
    assert run.returncode == 1
    assert "refuses the key" in run.stderr and "correct OPENAI_API_KEY" in run.stderr
    assert "sk-wrong" not in run.stderr


def test_explain_leads_from_a_row_back_to_its_sources_and_says_what_is_lost(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(demo[0], home)
    said = gradsim(home, "explain", "gradient_similarity/paraphrased", "demo", "demo_0").stdout
    assert "| demo_0" in said and "full_gradient" in said
    lines = [line.strip() for line in said.splitlines()]
    for link in ("dot_products_paraphrased model=demo shard=00", "bm25_candidates shard=00", "paraphrased shard=00"):
        assert f"← {link}" in lines
    assert any(line.startswith("source demo") for line in lines), "the originals and where they came from"
    assert any(line.startswith("revision") and "candidates 5" in line for line in lines)
    described = [line for line in lines if ", run_id " in line]
    assert described and all(", code_version " in line and ", configuration " in line for line in described)
    told = json.loads(gradsim(home, "explain", "gradient_similarity/paraphrased", "demo", "demo_0", "--json").stdout)
    named = [line.removeprefix("← ").split()[0] for line in lines if line.startswith(("←", "gradient_similarity_"))]
    assert [one["table"] for one in told] == named
    assert told[0]["rows"][0]["variant_id"] == "demo_0" and "rows" not in told[1] and told[0]["unchanged"] is None
    path = home / "tables/paraphrased/shard=00/data.parquet"
    pl.read_parquet(path, hive_partitioning=False)[::-1].write_parquet(path)
    lost = gradsim(home, "explain", "dot_products_paraphrased", "demo", "demo_0").stdout
    assert f"MISSING: {path} is not the file that was written" in lost and "← bm25_candidates shard=00" in lost
    assert gradsim(home, "explain", "paraphrased", "demo", "demo_0").stderr.startswith(f"Error: {path} is not the file")
    assert gradsim(home, "explain", "dot_products", "demo", "demo_0").stderr == (
        "Error: dot_products exists once for each of paraphrased, model_generated; name one of them, such as "
        "dot_products_paraphrased.\n"
    )
    assert (
        "sample demo_x is in no shard of"
        in gradsim(home, "explain", "dot_products/paraphrased", "demo", "demo_x").stderr
    )


def test_a_backfill_is_handed_over_with_what_is_missing_and_keeps_its_model_in_the_registry(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(demo[0], home)
    assert gradsim(home, "backfill").stdout == "Everything is there and up to date.\n"
    new = str(tmp_path / "new")
    Path(new).mkdir()
    Path(new, "config.json").write_text("{}")
    assert gradsim(home, "models", "add", new).stdout.splitlines()[0] == model_slug(new)
    unknown = gradsim(home, "backfill", "--model", new, "--shard", "9")
    assert (unknown.returncode, unknown.stderr) == (2, "Error: there is no shard 9; choose from 00, 01, 02, 03.\n")
    refused = gradsim(home, "backfill", "--model", "org/other")
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: org/other is not registered; add it with `gradsim models add org/other`.\n",
    )
    handed = gradsim(home, "backfill", "--model", new, "--shard", "01", "--only", "gradients").stdout
    assert re.fullmatch(r"backfill \w+: 5 partitions of 5 assets; it is worked on while `gradsim ui` is up\n", handed)
    removed = gradsim(home, "models", "remove", new)
    assert removed.returncode == 2
    assert re.fullmatch(
        rf"Error: {re.escape(new)} is part of backfill \w+; wait for it or cancel it first.\n", removed.stderr
    )
