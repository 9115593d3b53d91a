"""One `gradsim ui` at a time on a home."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.locks import try_lock
from gradsim_assets.runs.process_identity import ProcessIdentity
from gradsim_assets.runs.ui_lock import Notice, only_ui
from gradsim_assets_tests.conftest import COMMAND, environment_of, gradsim
from gradsim_assets_tests.support.running_platform import free_port

ADDRESS = "http://127.0.0.1:3000"

#: What the command of our own pages has in it.
WEB = "gradsim_assets.web"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


def notice(home: Path) -> Notice | None:
    with suppress(OSError, ValueError):
        return Notice(**json.loads((home / "dagster/ui.lock").read_text()))
    return None


def serving(home: Path) -> list[psutil.Process]:
    """The services of a home that are alive: `dagster dev`, its web server, its daemon, our own pages."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            command = " ".join(process.cmdline())
            if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("GRADSIM_HOME") != str(home):
                continue
            if any(name in command for name in ("dagster dev", "dagster_webserver", "dagster._daemon", WEB)):
                found.append(process)
    return found


class Ui:
    """`gradsim ui` on a home, at a port of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.port, self.web_port = home, free_port(), free_port()

    def start(self) -> subprocess.Popen[bytes]:
        log = (self.home / "ui.log").open("ab")
        command = [*COMMAND, "ui", "--port", str(self.port), "--web-port", str(self.web_port)]
        environment = environment_of(self.home)
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def answers(self) -> bool:
        """Whether Dagster's web server and our own pages do."""
        with suppress(OSError):
            addresses = (f"http://127.0.0.1:{self.port}/server_info", f"http://127.0.0.1:{self.web_port}/health")
            return all(urllib.request.urlopen(address, timeout=5).status == 200 for address in addresses)
        return False


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[Ui]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "gradsim.toml").write_text("[data]\nshards = 1\n")
    yield Ui(home)
    for process in serving(home):
        with suppress(psutil.Error):
            process.kill()


@pytest.mark.slow
def test_the_second_is_refused_and_what_a_killed_one_leaves_behind_does_not_block(ui: Ui) -> None:
    first = ui.start()
    wait_for(lambda: ui.answers() and len(serving(ui.home)) >= 4 and notice(ui.home).beat > 1, "the first to answer")
    second = gradsim(ui.home, "ui", "--port", str(free_port()))
    assert second.returncode == 2
    assert second.stderr.strip() == (
        f"Error: http://127.0.0.1:{ui.port} serves this home already (process {first.pid}); open it there, or stop it with "
        f"Ctrl-C where it runs, or `kill {first.pid}` first."
    )
    first.kill()
    first.wait()
    left = set(serving(ui.home))
    assert left, "the services should have outlived their parent"
    third = ui.start()
    wait_for(lambda: not left & set(serving(ui.home)), "the old services to end")
    wait_for(lambda: ui.answers() and len(serving(ui.home)) >= 4, "the third to answer")
    assert sum("dagster._daemon" in " ".join(one.cmdline()) for one in serving(ui.home)) == 1
    assert "ending the services that a killed `gradsim ui` has left behind" in (ui.home / "ui.log").read_text()
    third.send_signal(signal.SIGTERM)
    third.wait(60)
    assert notice(ui.home) is None and serving(ui.home) == []


@pytest.mark.slow
def test_the_server_of_pages_is_started_again_and_dagster_goes_on_meanwhile(ui: Ui) -> None:
    process = ui.start()
    wait_for(lambda: ui.answers() and len(serving(ui.home)) >= 4, "both to answer")
    printed = (ui.home / "ui.log").read_text()
    assert f"http://127.0.0.1:{ui.web_port}  models" in printed and f"http://127.0.0.1:{ui.port}  Dagster" in printed
    page = urllib.request.urlopen(f"http://127.0.0.1:{ui.web_port}/", timeout=60).read().decode()
    assert f'href="http://127.0.0.1:{ui.port}/asset-groups"' in page
    ours, others = (
        {one for one in serving(ui.home) if (WEB in " ".join(one.cmdline())) == is_web} for is_web in (True, False)
    )
    (web,) = ours
    web.kill()
    wait_for(lambda: not web.is_running() and ui.answers(), "the pages to be served again")
    assert others <= set(serving(ui.home)), "Dagster's services are the same"
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert serving(ui.home) == []


@pytest.mark.parametrize(("taken", "option"), [("port", "--port"), ("web_port", "--web-port")])
def test_a_port_that_is_taken_is_named_with_its_option(ui: Ui, taken: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", getattr(ui, taken))):
        refused = gradsim(ui.home, "ui", "--port", str(ui.port), "--web-port", str(ui.web_port))
    assert refused.returncode == 2
    assert f"127.0.0.1:{getattr(ui, taken)} cannot be listened on" in refused.stderr
    assert refused.stderr.strip().endswith(f"choose another {option}.") and serving(ui.home) == []


def left_by(folder: Path, **changed: str) -> Notice:
    """A notice of a process that is gone, or of one that cannot be judged from here."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    process.communicate(b"\n")
    assert identity is not None
    found = Notice(ADDRESS, str(replace(identity, **changed)))  # type: ignore[arg-type]
    (folder / "ui.lock").write_text(json.dumps(asdict(found)))
    return found


@pytest.mark.parametrize("changed", [{}, {"host": "elsewhere"}, {"namespace": "pid:[1]"}, {"boot": "before"}], ids=str)
def test_a_notice_of_one_that_is_heard_of_no_more_does_not_block(tmp_path: Path, changed: dict[str, str]) -> None:
    left_by(tmp_path, **changed)
    with only_ui(tmp_path, ADDRESS) as lock:
        lock.beat([os.getpid()])
        assert Notice(**json.loads((tmp_path / "ui.lock").read_text())).beat == 1
    assert (tmp_path / "ui.lock").read_text().strip() == ""


def test_one_that_serves_from_another_machine_is_heard_of_where_locks_do_not_reach(tmp_path: Path) -> None:
    there = left_by(tmp_path, host="elsewhere")
    done = threading.Event()

    def beat() -> None:
        while not done.wait(1):
            there.beat += 1
            (tmp_path / "ui.lock").write_text(json.dumps(asdict(there)))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with (
            pytest.raises(InputError, match=rf"{ADDRESS} serves .* on elsewhere\); .* with Ctrl-C there first"),
            only_ui(tmp_path, "http://127.0.0.1:3001"),
        ):
            pass
    finally:
        done.set()
        thread.join()


def test_a_lock_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gradsim_assets.core.locks import try_lock\n"
        f"held = try_lock(Path({str(tmp_path / 'a.lock')!r})); print(held is not None, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    assert try_lock(tmp_path / "a.lock") is None
    process.kill()
    process.wait()
    assert try_lock(tmp_path / "a.lock") is not None
