"""What another process says of a model and its originals."""

from pathlib import Path

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.defs.tracing.code_versions import CodeVersions
from gradsim_assets.runs.trace_check import TraceCheck, trace_check


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gradsim.toml").write_text("")
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    monkeypatch.setenv("GRADSIM_CONFIG", str(tmp_path / "gradsim.toml"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return tmp_path


def test_originals_that_are_not_there_are_not_those_of_now_and_the_code_is_that_of_this_process(home: Path) -> None:
    with trace_check("demo") as check:
        assert check.originals_are_current() is False
        assert check.code() == CodeVersions.now()


def test_a_model_that_is_not_registered_is_refused_in_its_sentence(home: Path) -> None:
    with (
        trace_check("org/none") as check,
        pytest.raises(InputError, match="org/none is not registered; `gradsim models"),
    ):
        check.originals_are_current()


def test_a_process_that_says_nothing_is_no_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with trace_check("demo") as check, pytest.raises(RuntimeError, match="ended with 1"):
        check.originals_are_current()


def test_the_process_ends_with_the_block(home: Path) -> None:
    with trace_check("demo") as check:
        assert isinstance(check, TraceCheck)
        process = check._process
        assert process.poll() is None
    assert process.poll() is not None
