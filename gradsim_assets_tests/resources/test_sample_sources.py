"""Originals and paraphrases by configuration."""

from pathlib import Path

import pytest

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import parse_samples
from gradsim_assets.demo import data
from gradsim_assets.resources.by_name import resources
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets_tests.support.sample_files import rows, write


def sources(originals: str = "demo", paraphrases: str = "demo", samples: int = 0) -> SampleSources:
    return SampleSources(originals=originals, paraphrases=paraphrases, samples=samples)


def test_the_demo_is_what_its_file_holds_with_a_paraphrase_for_every_original() -> None:
    demo = sources()
    assert demo.load_originals() == parse_samples(data.load_originals(), "the demo")
    assert demo.load_paraphrases() == parse_samples(data.load_paraphrases(), "the demo")
    assert [s.id for s in demo.load_originals()] == [s.id for s in demo.load_paraphrases()]


def test_a_limit_is_of_the_originals(tmp_path: Path) -> None:
    assert [s.id for s in sources(samples=3).load_paraphrases()] == [s.id for s in sources(samples=3).load_originals()]
    originals, paraphrases = write(tmp_path / "o.jsonl", rows("a", "b")), write(tmp_path / "p.jsonl", rows("b", "a"))
    assert [s.id for s in sources(originals, paraphrases, 1).load_paraphrases()] == ["a"]


def test_relative_paths_begin_at_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    (folder / "data").mkdir(parents=True)
    write(folder / "data/o.jsonl", rows("right"))
    config = folder / "gradsim.toml"
    config.write_text('[data]\noriginals = "data/o.jsonl"\nparaphrases = "../p.jsonl"\n')
    write(tmp_path / "p.jsonl", rows("right"))
    (tmp_path / "elsewhere/data").mkdir(parents=True)
    write(tmp_path / "elsewhere/data/o.jsonl", rows("wrong"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for named in (str(config), "../study/gradsim.toml"):
        settings = load_settings({"GRADSIM_CONFIG": named, "GRADSIM_HOME": str(tmp_path)})
        found = resources(settings).sources
        assert [s.id for s in found.load_originals()] == [s.id for s in found.load_paraphrases()] == ["right"]
        assert settings.fingerprint == load_settings({"GRADSIM_CONFIG": str(config)}).fingerprint


def test_demo_paraphrases_fit_the_demo_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='data.paraphrases = "demo" fits data.originals = "demo" only'):
        sources(write(tmp_path / "o.jsonl", rows("a"))).load_paraphrases()
