"""`gradsim trace` on the demo, as a user gives it."""

import json
import random
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

import gradsim_assets
from gradsim_assets.configuration import load_settings
from gradsim_assets.core.tracing.held_originals import HeldOriginals
from gradsim_assets.core.tracing.stored_traces import StoredTrace, traces_in
from gradsim_assets.defs.tracing.tracing import Tracing
from gradsim_assets.orchestration.spent import DEVICE_TAG, spent
from gradsim_assets.resources.compute import Compute
from gradsim_assets.runs.environment import open_instance
from gradsim_assets.runs.launcher import Launcher
from gradsim_assets.runs.tracing import traces_of
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.web_home import PagesServer


@pytest.fixture(scope="module")
def home(demo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's home, for traces leave something in it."""
    copy = tmp_path_factory.mktemp("traced") / "home"
    shutil.copytree(demo[0], copy)
    return copy


def texts(home: Path) -> dict[str, tuple[str, str]]:
    rows = pl.read_parquet(home / "tables" / "lima" / "data.parquet").to_dicts()
    return {row["id"]: tuple(message["content"] for message in row["messages"]) for row in rows}


def test_an_originals_own_text_leads_back_to_it_and_is_not_computed_twice(home: Path) -> None:
    sample, (prompt, answer) = next(iter(texts(home).items()))
    arguments = ("trace", "demo", "--prompt", prompt, "--answer", answer)
    first = gradsim(home, *arguments)
    assert first.returncode == 0, first.stderr
    # The same text has the same gradient: 1 up to rounding, and nothing else does.
    assert re.search(rf"^1 +{sample} +1\.0000 +\d+% +100 +1$", first.stdout, re.MULTILINE)
    page = Path(first.stdout.split("Page: ")[1].strip())
    assert page.is_file() and page.is_relative_to(home / "traces" / "demo")
    made = page.stat().st_mtime_ns
    again = gradsim(home, *arguments, "--json")
    document = json.loads(again.stdout)
    assert page.stat().st_mtime_ns == made and document["id"] == page.parent.name
    assert len(document["originals"]) == len(texts(home)) and document["originals"][0]["original_id"] == sample
    assert not (home / "scratch" / "traces").exists() or not list((home / "scratch" / "traces").iterdir())


def test_the_models_own_answer_is_traced_where_none_is_given(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = gradsim(home, "trace", "demo", "--prompt", "How do I boil an egg?", "--method", "dot_product", "--top", "3")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("The model answers: ") and "dot_product" in told.stdout
    ranked = re.findall(r"^\d+ +(demo_\d+)", told.stdout, re.MULTILINE)
    assert len(ranked) == 3
    monkeypatch.setenv("GRADSIM_HOME", str(home))
    monkeypatch.setenv("GRADSIM_CONFIG", str(home / "gradsim.toml"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    found = gradsim_assets.trace("demo", "How do I boil an egg?", method="dot_product")
    assert found["original_id"].head(3).to_list() == ranked and found["dot_product"].is_sorted(descending=True)


def tracing_of(home: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int) -> Tracing:
    monkeypatch.setenv("GRADSIM_HOME", str(home))
    monkeypatch.setenv("GRADSIM_CONFIG", str(home / "gradsim.toml"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    launcher = Launcher(open_instance(writes=False))
    return replace(traces_of(load_settings(), launcher), memory_bytes=memory_bytes)


def _heard(name: str, work: list[str]) -> Any:
    """A method of `Compute` that says that it was called."""
    own = getattr(Compute, name)

    def heard(compute: Compute, *given: object) -> Any:
        work.append(name)
        return own(compute, *given)

    return heard


def test_a_text_costs_its_own_gradient_alone_where_those_of_the_originals_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[str] = []
    for name in ("run_pass", "held_originals"):
        monkeypatch.setattr(Compute, name, _heard(name, work))
    asked = ("demo", "How do I warm milk?", "In a pot, slowly.")
    shutil.rmtree(home / "scratch" / "fetched" / "gradients", ignore_errors=True)
    swept: list[int] = []
    of_all = HeldOriginals.of
    monkeypatch.setattr(HeldOriginals, "of", lambda *given: (swept.append(1), of_all(*given))[1])
    keeping = tracing_of(home, monkeypatch, 2**30)
    keeping.trace("demo", "How do I boil water?", "In a pot.")
    assert work == ["held_originals"] and swept == [1]
    tracing_of(home, monkeypatch, 2**30).trace("demo", "How do I heat water?", "In a pot.")
    assert work == ["held_originals"] * 2 and swept == [1], "another process reads what this one has kept"
    work.clear()
    work.append("held_originals")
    found, folder = keeping.trace(*asked)
    assert work == ["held_originals"], "nothing but the text went through the model"
    for memory_bytes in (0, 1):
        shutil.rmtree(folder)
        work.clear()
        alone, _ = tracing_of(home, monkeypatch, memory_bytes).trace(*asked)
        assert work == ["run_pass"] and alone.id == found.id
        assert alone.originals["original_id"].to_list() == found.originals["original_id"].to_list()
        # fp32: other ways of summing the same products.
        assert alone.originals["similarity"].to_numpy() == pytest.approx(
            found.originals["similarity"].to_numpy(), abs=1e-5
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("trace", "org/unknown", "--prompt", "Why?"),
            "org/unknown is not registered; `gradsim models add org/unknown`",
        ),
        (("trace", "demo", "--prompt", " "), "the prompt is empty; give the text that the model is asked with."),
        (("trace", "demo", "--prompt", "Why?", "--method", "ekfac"), "there is no method ekfac; give one of cosine"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_a_sentence(arguments: tuple[str, ...], said: str, home: Path) -> None:
    refused = gradsim(home, *arguments)
    assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr


def test_many_texts_of_a_file_are_traced_and_those_that_cannot_be_are_named(home: Path, tmp_path: Path) -> None:
    (sample, (prompt, answer)), *_ = texts(home).items()
    file = tmp_path / "texts.jsonl"
    asked = [{"prompt": prompt, "answer": answer}, {"prompt": "egg " * 5000, "answer": "Yes."}, {"prompt": "Tea?"}]
    file.write_text("\n".join(map(json.dumps, asked)))
    found = gradsim(home, "trace", "demo", "--file", str(file), "--top", "2")
    assert found.returncode == 1
    told = rf"^✗ {re.escape(str(file))}, line 2: the text has \d+ tokens, which is more than the model's context of 384; shorten it"
    assert re.search(told, found.stderr, re.MULTILINE), found.stderr
    assert (
        f"{file}, line 1: {prompt}"[:60] in found.stdout
        and f"\n{file}, line 3: Tea?\nThe model answers: " in found.stdout
    )
    ranked = re.findall(r"^(\d+) +(demo_\d+)", found.stdout, re.MULTILINE)
    assert [place for place, _ in ranked] == ["1", "2", "1", "2"] and ranked[0][1] == sample
    assert found.stdout.count("\nPage: ") == 2
    file.write_text(json.dumps(asked[0]) + '\n{"answer": "Yes."}')
    refused = gradsim(home, "trace", "demo", "--file", str(file))
    assert refused.returncode == 2 and "line 2 has no `prompt`" in refused.stderr and refused.stdout == ""
    for arguments in ((), ("--prompt", "Why?", "--file", str(file)), ("--answer", "Yes.", "--file", str(file))):
        refused = gradsim(home, "trace", "demo", *arguments)
        assert (
            refused.returncode == 2 and "give a text by --prompt (and --answer), or many by --file." in refused.stderr
        )


def test_originals_that_have_changed_are_not_traced_to(tmp_path: Path) -> None:
    refused = gradsim(tmp_path / "home", "trace", "demo", "--prompt", "Why?")
    assert refused.returncode == 2
    assert "the originals are missing or out of date; `gradsim run MODEL --only datasets` makes them." in refused.stderr


def test_texts_are_traced_over_http_for_many_at_once(home: Path) -> None:
    questions = [{"model": "demo", "prompt": f"How do I boil {number} eggs?", "wait": 300} for number in range(3)]
    with PagesServer(home) as site:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda asked: site.post("/api/trace", asked), [*questions, *questions]))
        assert {status for status, _ in answers} == {200}
        for (_, told), (_, again) in zip(answers[:3], answers[3:], strict=True):
            assert told["trace"] == again["trace"] and told["trace"]["generated"]
        trace = answers[0][1]["trace"]
        assert [one["rank"] for one in trace["originals"]] == list(range(1, 21))
        status, page = site.get(trace["page"])
        assert status == 200 and trace["originals"][0]["original_id"] in page
        assert trace["page"] in site.get("/trace")[1]
        status, told = site.post("/api/trace", {"model": "demo", "prompt": "How do I boil milk?", "wait": 0})
        assert status == 202 and told["state"] in ("waiting", "running")
        with site.deleting(f"/api/trace/{told['job']}") as answer:
            assert json.loads(answer.read())["state"] in ("cancelled", "done")
    from_python = gradsim(home, "trace", "demo", "--prompt", questions[0]["prompt"], "--json")
    assert json.loads(from_python.stdout)["id"] == trace["id"], "the command finds what the server has traced"


def job(home: Path, monkeypatch: pytest.MonkeyPatch, texts: list[dict[str, str]], model: str = "demo") -> Any:
    """A run of the job `trace`, and the instance."""
    monkeypatch.setenv("GRADSIM_HOME", str(home))
    monkeypatch.setenv("GRADSIM_CONFIG", str(home / "gradsim.toml"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    launcher = Launcher(open_instance(writes=True))
    config = {"ops": {"trace_texts": {"config": {"texts": texts, "method": "dot_product"}}}}
    return launcher.run_job("trace", config, model), launcher


def test_the_job_adds_to_the_traces_of_its_model_with_provenance(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [{"prompt": "How do I bake bread?", "answer": "In an oven."}, {"prompt": "How do I bake a cake?"}]
    before = {folder.name for folder in traces_in(home / "traces" / "demo")}
    run, launcher = job(home, monkeypatch, texts)
    assert run.error is None
    made = {folder.name: StoredTrace.load(folder) for folder in traces_in(home / "traces" / "demo")}
    new = {trace.prompt: trace for name, trace in made.items() if name not in before}
    assert set(new) == {text["prompt"] for text in texts}
    assert [new[text["prompt"]].generated for text in texts] == [False, True]
    assert {trace.provenance["run"] for trace in new.values()} == {run.run_id}
    key = dg.AssetKey("traces")
    (record,) = launcher.instance.fetch_materializations(key, limit=1).records
    told = record.asset_materialization
    assert record.partition_key == "demo" and told.metadata["traced"].value == 2
    assert told.metadata["kept"].value == len(made)
    assert set(told.metadata["ids"].value.split(", ")) == {trace.id for trace in new.values()}
    assert told.metadata["gradsim/revision"].value == next(iter(new.values())).provenance["revision"]
    assert spent_of(launcher, run.run_id) == ("demo", "cpu")
    frame = gradsim_assets.load("traces", "demo")
    kept = frame.filter(pl.col("id").is_in([trace.id for trace in new.values()]))
    assert kept.height == 2 * 114 and set(kept["method"]) == {"dot_product"} and kept["traced"].min() > "2026"
    assert set(frame["id"]) == set(made), "what was asked in other ways stands in the same table"
    # Texts are no table that something is missing of: nothing that is up to date becomes stale by them.
    assert not [one for one in launcher.standings() if one.table == key]
    again = gradsim(
        home,
        "trace",
        "demo",
        "--prompt",
        texts[0]["prompt"],
        "--answer",
        texts[0]["answer"],
        "--method",
        "dot_product",
        "--json",
    )
    assert json.loads(again.stdout)["provenance"]["run"] == run.run_id, "the command finds what the job has traced"


def spent_of(launcher: Launcher, run_id: str) -> tuple[str, str]:
    """The model that a run is counted for, and the device that it was on."""
    (one,) = [one for one in spent(launcher.instance, launcher.repository.asset_graph) if one.step == "trace_texts"]
    tags = launcher.instance.get_run_by_id(run_id).tags
    return str(one.model), tags[f"{DEVICE_TAG}trace_texts"]


@pytest.mark.parametrize(
    ("texts", "model", "said"),
    [
        ([], "demo", "there is nothing to trace; give one or more `texts` with a `prompt`."),
        (
            [{"prompt": "Why?"}, {"prompt": " "}],
            "demo",
            "text 2 of 2: the prompt is empty; give the text that the model",
        ),
        ([{"prompt": "egg " * 5000, "answer": "Yes."}], "demo", "text 1 of 1: the text has"),
        ([{"prompt": "Why?"}], "org--none", "org/none is not registered; `gradsim models add org/none` does it"),
    ],
)
def test_the_job_says_what_it_cannot_trace(
    home: Path, monkeypatch: pytest.MonkeyPatch, texts: list[dict[str, str]], model: str, said: str
) -> None:
    before = len(traces_in(home / "traces" / "demo"))
    run, _ = job(home, monkeypatch, texts, model)
    assert run.error is not None and said in run.error and "\n" not in run.error
    assert len(traces_in(home / "traces" / "demo")) == before


KILLS, CLIENTS = 20, 8


@pytest.mark.slow
def test_kills_of_the_server_lose_no_trace_that_was_told(home: Path, tmp_path: Path) -> None:
    told: dict[str, list[str]] = {}
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    moments = random.Random(0)

    def ask(site: PagesServer, kill: int, client: int) -> None:
        for number in range(100):
            asked = {"model": "demo", "prompt": f"Why {kill} {client} {number}?", "answer": "So.", "wait": 300}
            try:
                status, found = site.post("/api/trace", asked)
            except OSError:
                return  # the server is gone
            assert status == 200, found
            told[found["trace"]["id"]] = [one["original_id"] for one in found["trace"]["originals"]]

    for kill in range(KILLS):
        before = len(told)
        with PagesServer(copy) as site, ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask, site, kill, client) for client in range(CLIENTS)]
            while len(told) == before and not any(one.done() for one in asking):
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 1))  # at any moment of another one's making, or between two
            site.kill()
            for one in asking:
                one.result()
    folders = {folder.name: folder for folder in traces_in(copy / "traces" / "demo")}
    assert len(told) >= KILLS and set(told) <= set(folders)
    for name, folder in folders.items():
        found = StoredTrace.load(folder)  # whole, whether it was told or not
        assert found.originals.height and (folder / "index.html").read_text().endswith("</html>")
        assert name not in told or found.originals["original_id"].head(20).to_list() == told[name]


def test_a_command_asks_the_server_of_its_home_and_finds_the_same(home: Path) -> None:
    prompt, where = "How do I fry an egg?", ("trace", "demo", "--answer", "In a pan.", "--json", "--prompt")
    with PagesServer(home) as site:
        asked = gradsim(home, *where, prompt)
        assert asked.returncode == 0, asked.stderr
        assert f"{site.address} serves this home and traced the text; --here does it in this process." in asked.stderr
        here = gradsim(home, *where, prompt, "--here")
        assert here.stderr == "" and here.stdout == asked.stdout
        refused = gradsim(home, *where, "egg " * 5000)
        assert refused.returncode == 2 and "is more than the model's context of 384" in refused.stderr
    alone = gradsim(home, *where, prompt)
    assert alone.stdout == asked.stdout and "serves this home" not in alone.stderr


BAD = {
    "the prompt is empty; give the text": {"prompt": " "},
    "the answer is empty, so it has no gradient": {"answer": ""},
    "is more than the model's context of 384; shorten it": {"prompt": "egg " * 5000, "answer": "Yes."},
    "the prompt holds half of a character at 1": {"prompt": "\ud83d"},
    "there is no method astrology; give one of cosine": {"method": "astrology"},
    '"faiss" names no candidates': {"against": "faiss"},
}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} </textarea>"


@pytest.mark.slow
def test_bad_texts_and_a_thousand_at_once_get_their_sentences_and_the_server_goes_on(home: Path) -> None:
    good = {"model": "demo", "prompt": "How do I boil rice?", "answer": "In water.", "wait": 300}
    with PagesServer(home) as site:
        for said, case in BAD.items():
            status, told = site.post("/api/trace", {**good, **case})
            assert status == 409 and said in told["error"] and "\n" not in told["error"], told
        status, told = site.post("/api/trace", {**good, "answer": EVIL})
        assert status == 200 and EVIL not in site.get(told["trace"]["page"])[1]

        def ask(number: int) -> tuple[int, str]:
            status, told = site.post("/api/trace", {**good, "prompt": f"How do I boil {number} eggs?", "wait": 0})
            return status, told.get("error", "")

        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(ask, range(1000)))
            assert site.get("/health")[0] == 200
        refused = [said for status, said in answers if status == 503]
        assert {status for status, _ in answers} == {202, 503} and len(refused) > 900
        assert all(
            re.fullmatch(r"8 texts are waiting to be traced already; ask again in \d+ s\.", one) for one in refused
        )
        while (status := site.post("/api/trace", good)[0]) == 503:
            time.sleep(0.5)
        assert status == 200


def test_many_who_wait_keep_nobody_from_the_pages(home: Path) -> None:
    asked = {"model": "demo", "prompt": "How do I boil a hundred eggs?", "wait": 300}
    with PagesServer(home) as site, ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(site.post, "/api/trace", asked) for _ in range(100)]
        # More wait than a server has threads. None of them may be needed for a page.
        while site.post("/api/trace", {**asked, "wait": 0})[1]["state"] == "waiting":
            time.sleep(0.01)
        assert site.get("/health")[0] == 200 and site.get("/trace")[0] == 200
        answers = [one.result() for one in waiting]
    assert {status for status, _ in answers} == {200}
    assert len({told["trace"]["id"] for _, told in answers}) == 1
