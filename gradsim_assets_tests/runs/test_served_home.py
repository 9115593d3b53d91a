"""Where a home is served, as commands of the same machine find it."""

import json
from pathlib import Path

import pytest

from gradsim_assets.core.home import Home
from gradsim_assets.runs.served_home import address_of, served, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path))
    monkeypatch.setenv("GRADSIM_CONFIG", str(tmp_path / "gradsim.toml"))
    monkeypatch.delenv("GRADSIM_TABLES", raising=False)
    return Home(tmp_path)


def test_a_server_is_found_while_it_serves(home: Home) -> None:
    assert served() is None
    with serving("http://127.0.0.1:3001"):
        found = served()
        assert found is not None and found.address == "http://127.0.0.1:3001"
    assert served() is None and not list(home.locks.iterdir())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("GRADSIM_CONFIG", "/other.toml"), ("GRADSIM_TABLES", "s3://other"), ("GRADSIM_HOME", "/no")],
)
def test_one_with_other_settings_is_not_asked(
    home: Home, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with serving("http://127.0.0.1:3001"):
        monkeypatch.setenv(variable, value)
        assert served() is None
        monkeypatch.undo()


def test_what_a_killed_server_or_one_of_another_machine_left_behind_is_not_asked(home: Home) -> None:
    with serving("http://127.0.0.1:3001"):
        file = home.locks / "pages.json"
        told = json.loads(file.read_text())
        host, boot, namespace, pid, start = told["process"].split(" ")
        for process in ((host, boot, namespace, pid, "1"), ("elsewhere", boot, namespace, pid, start)):
            file.write_text(json.dumps({**told, "process": " ".join(process)}))
            assert served() is None
        file.write_text(json.dumps({**told, "version": "0.0.0"}))
        assert served() is None
        file.write_text("{")
        assert served() is None


def test_a_server_that_listens_everywhere_is_here_too() -> None:
    assert address_of("0.0.0.0", 3001) == "http://127.0.0.1:3001" and address_of("::1", 1) == "http://[::1]:1"
