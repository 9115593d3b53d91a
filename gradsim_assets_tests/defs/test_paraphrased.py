"""What makes paraphrases stale."""

from pathlib import Path

import pytest

from gradsim_assets.configuration import DataSettings, ParaphraserSettings, Settings
from gradsim_assets.core.datasets.paraphrased import OPENAI
from gradsim_assets.defs.datasets import paraphrased
from gradsim_assets.orchestration.partitions import Partitions


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
