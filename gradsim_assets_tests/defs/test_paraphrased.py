"""The asset `paraphrased`: what makes it stale; with a chat service what it counts, what it asks with, and how it fails."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import DataSettings, ParaphraserSettings, Settings, load_settings
from gradsim_assets.core.datasets.paraphrased import OPENAI
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.datasets import paraphrased
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.chat_server import ChatServer


def code_version(**paraphraser: object) -> str | None:
    settings = Settings(
        home=Path("/h"),
        tables="/h/tables",
        data=DataSettings(paraphrases=OPENAI),
        paraphraser=ParaphraserSettings.model_validate(paraphraser),
    )
    asset = paraphrased.build(settings, Partitions(settings.data.shards))
    return asset.code_versions_by_key[asset.key]


def test_whatever_a_chat_model_is_asked_decides_and_how_it_is_asked_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = code_version()
    assert now == code_version(concurrency=2, max_cost_usd=1.0, mode="batch")
    assert now == code_version(system_prompt=paraphrased.SYSTEM_PROMPT), "what is built in, spelled out"
    asked = [code_version(**{name: value}) for name, value in (("model", "m"), ("seed", 1), ("system_prompt", "Say."))]
    monkeypatch.setattr(paraphrased, "SYSTEM_PROMPT", "Rewrite it.")
    assert len({now, *asked, code_version()}) == 5


def test_what_is_left_out_of_a_request_and_room_for_reasoning_decide_and_patience_does_not() -> None:
    now = code_version()
    assert now == code_version(deadline_seconds=5, timeout_seconds=3)
    assert len({now, code_version(fields={"temperature": ""}), code_version(reasoning_tokens=9)}) == 3


def run_shard(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, **paraphraser
) -> dg.ExecuteInProcessResult:
    """The job `variants` on the first of two shards of four demo samples."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    settings = Settings(
        home=folder,
        tables=str(folder / "tables"),
        data=DataSettings(samples=4, shards=2, paraphrases="openai"),
        paraphraser=ParaphraserSettings(**paraphraser),
    )
    instance, definitions = dg.DagsterInstance.ephemeral(), build_definitions(settings)
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    job = definitions.resolve_job_def("variants")
    return job.execute_in_process(instance=instance, partition_key="00", raise_on_error=False)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            'reply 402 {"error": {"message": "Insufficient Balance"}}',
            "has no credit left (HTTP 402: Insufficient Balance)",
        ),
        ('reply 200 {"error": {"message": "Not on this plan"}}', "(HTTP 200: Not on this plan)"),
        ("reasoning", "fills max_completion_tokens (up to"),
    ],
)
def test_what_cannot_heal_is_not_tried_again_and_told_in_one_sentence(
    reply: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatServer(plan=lambda text, nth: reply) as server:
        result = run_shard(tmp_path, server, monkeypatch)
    assert not result.success
    assert not [
        event for event in result.all_events if event.event_type_value in ("STEP_UP_FOR_RETRY", "STEP_RESTARTED")
    ]
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert said in failure.step_failure_data.error.message
    assert "Traceback" not in failure.step_failure_data.error.message
    assert not Tables(str(tmp_path / "tables")).exists(["paraphrased"], Partition(shard="00"))


def test_missing_and_doubtful_variants_are_counted_in_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def plan(text: str, nth: int) -> str:
        asked.append(text)
        first = dict.fromkeys(asked)
        return {0: "identical", 1: "says Nein."}.get(list(first).index(text), "ok")

    with ChatServer(plan=plan) as server:
        result = run_shard(tmp_path, server, monkeypatch, concurrency=1)
    assert result.success
    (made,) = result.asset_materializations_for_node("paraphrased")
    found = {name: value.value for name, value in made.metadata.items() if hasattr(value, "value")}
    assert (found["missing"], found["texts/missing"], found["texts/missing: identical"]) == (1, 1, 1)
    (warning,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "no_flags"]
    assert not warning.passed and warning.severity == dg.AssetCheckSeverity.WARN
    assert "1 paraphrases are missing 'user: identical" in str(warning.description)


def test_configuration_reaches_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"seed": "", "max_completion_tokens": "max_tokens"}
    with ChatServer(forbidden=("seed", "max_completion_tokens")) as server:
        assert run_shard(tmp_path, server, monkeypatch, fields=fields, reasoning_tokens=500).success
    assert all(asked.body["max_tokens"] > 756 and asked.body["temperature"] == 1.0 for asked in server.asked)


def test_every_key_of_the_section_reaches_the_options(tmp_path: Path) -> None:
    path = tmp_path / "gradsim.toml"
    path.write_text(
        '[paraphraser]\nfields = { temperature = "", max_completion_tokens = "max_tokens" }\nreasoning_tokens = 4096\n'
        "deadline_seconds = 30\ntimeout_seconds = 5.5\n"
    )
    settings = load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(tmp_path)})
    options = resources(settings).paraphraser.options()
    assert dict(options.fields) == {"temperature": "", "max_completion_tokens": "max_tokens"}
    assert (options.reasoning_tokens, options.deadline_seconds, options.timeout_seconds) == (4096, 30, 5.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('fields = { top_p = "" }', "paraphraser.fields.top_p"),
        ("reasoning_tokens = -1", "paraphraser.reasoning_tokens = -1 is not accepted"),
        ("deadline_seconds = 0", "paraphraser.deadline_seconds = 0 is not accepted"),
    ],
)
def test_a_wrong_value_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "gradsim.toml"
    path.write_text(f"[paraphraser]\n{line}\n")
    with pytest.raises(InputError) as caught:
        load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(tmp_path)})
    assert said in str(caught.value)
