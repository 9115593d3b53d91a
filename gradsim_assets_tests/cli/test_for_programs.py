"""What commands print for programs and for shells: JSON wherever there is a table, completions, and one spelling of parts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from gradsim_assets.cli import main
from gradsim_assets.cli.export import used_settings, without_paths
from gradsim_assets.cli.run import PARTS, run
from gradsim_assets.configuration import (
    ComputeSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    PreconditionerSettings,
    Settings,
)
from gradsim_assets.core.tables.schemas import TABLES
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.defs.stages import STAGES
from gradsim_assets_tests.cli.test_help import commands
from gradsim_assets_tests.conftest import gradsim

ANSWER = "You only need flour, water and about a week."

#: How every command that prints a table is called on the demo's home, and what its JSON holds.
TOLD: dict[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "plan": (("demo", "--tflops", "0.1"), lambda told: told["backward_passes"] > 0 and told["usd"] is None),
    "status": ((), lambda told: bool(told)),
    "models list": ((), lambda told: {one["model"] for one in told} == {"demo", "demo+untrained"}),
    "report": (("demo",), lambda told: told["model"] == "demo"),
    "explain": (("retrieval_paraphrased", "demo", "demo_0"), lambda told: told[0]["table"].startswith("retrieval")),
    "trace": (
        ("demo", "--prompt", "How do I make a sourdough starter?", "--answer", ANSWER, "--against", "bm25:2"),
        lambda told: len(told["originals"]) == 2,
    ),
    "spent": ((), lambda told: isinstance(told, list)),
    "doctor": ((), lambda told: all({"name", "state", "text"} <= set(one) for one in told)),
}


def test_every_command_that_has_json_is_called_here() -> None:
    having = {name for name, command in commands() if any("--json" in parameter.opts for parameter in command.params)}
    assert having == set(TOLD)


@pytest.mark.parametrize("name", TOLD)
def test_a_table_is_there_for_programs(name: str, demo: tuple[Path, str]) -> None:
    arguments, holds = TOLD[name]
    ran = gradsim(demo[0], *name.split(), *arguments, "--json")
    assert ran.returncode in (0, 1), ran.stderr
    (line,) = ran.stdout.splitlines()
    assert holds(json.loads(line)), line


def test_a_plan_says_what_an_hour_costs(demo: tuple[Path, str]) -> None:
    config = "[data]\nshards = 4\n[compute]\nprice_per_hour = 3600\n"
    told = json.loads(gradsim(demo[0], "plan", "demo", "--tflops", "0.1", "--json", config=config).stdout)
    assert told["usd"] == pytest.approx(told["seconds"], abs=1e-4), "3600 USD an hour are one a second"
    said = gradsim(demo[0], "plan", "demo", "--tflops", "0.1", config=config).stdout
    assert f"{told['usd']:.2f} USD at 3600 USD an hour" in said


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["explain", ""], set(PATHS)),
        (["export", "retrieval_p"], {"retrieval_paraphrased"}),
        (["explain", "retrieval_paraphrased", ""], {"demo", "demo+untrained"}),
        (["run", "de"], {"demo", "demo+untrained"}),
        (["models", "remove", "demo+"], {"demo+untrained"}),
        (["explain", "retrieval_paraphrased", "demo", "demo_10"], {f"demo_10{n}" for n in ("", *range(10)) if n != ""}),
        (["trace", "demo", "--method", "model.layers.0.mlp.d"], {"model.layers.0.mlp.down_proj.weight"}),
        (["trace", "demo", "--method", "co"], {"cosine"}),
        (["run", "--only", "a"], {"analyses"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_shells_complete_what_this_home_has(
    words: list[str], wanted: set[str], demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSIM_HOME", str(demo[0]))
    monkeypatch.setenv("GRADSIM_CONFIG", str(demo[0] / "gradsim.toml"))
    *before, incomplete = words
    found = ShellComplete(main, {}, "gradsim", "_GRADSIM_COMPLETE").get_completions(before, incomplete)
    assert {one.value for one in found} == wanted


def test_a_shell_hears_of_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a home that is not there, and of a configuration with a fault."""
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("GRADSIM_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    shell = ShellComplete(main, {}, "gradsim", "_GRADSIM_COMPLETE")
    assert shell.get_completions(["explain", "retrieval_paraphrased", "demo"], "") == []
    (tmp_path / "gradsim.toml").write_text("nonsense = 1\n")
    assert shell.get_completions(["run"], "") == []


def test_parts_are_spelt_alike_by_the_command_line_the_jobs_and_the_docs() -> None:
    jobs = [stage.job for stage in STAGES]
    assert {job for part in PARTS.values() for job in part} == set(jobs)
    assert set(jobs) <= set(PARTS), "every job can be asked for by its name"
    assert set(PARTS) - set(jobs) == {"all", "datasets"}, "and what is no job is said in words"
    for part, named in PARTS.items():
        assert part in named or part not in jobs
        assert list(named) == sorted(named, key=jobs.index), "in the order in which they need one another"
    (only,) = (parameter for parameter in run.params if parameter.name == "only")
    assert isinstance(only.type, click.Choice) and set(only.type.choices) == set(PARTS) - {"all"}
    texts = [path.read_text(encoding="utf-8") for path in (Path("README.md"), *Path("docs").glob("*.md"))]
    spelt = {part for text in texts for part in re.findall(r"gradsim run [^`\n]*--only[ =](\w+)", text)}
    assert len(spelt) > 3 and spelt <= {*PARTS, "PART"}, spelt


USED = Settings(
    home=Path("/secret/home"),
    tables="/secret/tables",
    folder=Path("/secret"),
    data=DataSettings(originals="/secret/data/mine.jsonl", paraphrases="~/mine_too.jsonl"),
    compute=ComputeSettings(precision="tf32", device="cuda:1", memory_gib=3),
    preconditioners=PreconditionerSettings(methods=("adam",)),
    evaluation=EvaluationSettings(pairs=4),
    models=(ModelSettings(id="/secret/runs/mine@checkpoint-5", dtype="bfloat16"), ModelSettings(id="org/other")),
)


@pytest.mark.parametrize("table", TABLES)
def test_a_card_tells_what_was_used_and_nothing_of_this_machine(table: str) -> None:
    used = without_paths(used_settings(USED, table, USED.models[0].id))
    text = json.dumps(used)
    assert "secret" not in text and "cuda:1" not in text and "other" not in text and "~" not in text
    assert used["data"]["originals"] == "mine.jsonl" and used["data"]["paraphrases"] == "mine_too.jsonl"
    assert "paraphraser" not in used, "nobody was asked"
    of_model = table not in ("lima", "sample_columns", "paraphrased", "bm25_candidates")
    assert ("models" in used) is of_model
    if of_model:
        assert used["models"] == [{"id": "mine@checkpoint-5", "dtype": "bfloat16"}]
    assert ("evaluation" in used) is (
        table in ("first_order", "tail_patch", "subset_losses", "linear_datamodeling_score", "removal")
    )
    assert used.get("compute", {}).get("precision", "tf32") == "tf32" and "memory_gib" not in used.get("compute", {})


def test_the_service_that_was_asked_stands_on_the_card() -> None:
    asked = USED.model_copy(update={"data": USED.data.model_copy(update={"paraphrases": "openai"})})
    assert "paraphraser" in used_settings(asked, "dot_products", "org/other")
    assert "paraphraser" not in used_settings(asked, "lima", None)
