"""`gradsim doctor`: what would be in the way of a run."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.running_platform import free_port


def findings(
    home: Path, config: str = "[data]\nshards = 1\n", **environment: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    run = gradsim(home, "doctor", "--json", config=config, **{"HF_HUB_OFFLINE": "1", **environment})
    assert run.stdout, run.stderr
    return run.returncode, {one["name"]: one for one in json.loads(run.stdout)}


def test_what_is_there_is_said_and_secrets_are_not_shown(tmp_path: Path) -> None:
    code, found = findings(tmp_path, HF_TOKEN="hf_SECRET", OPENAI_API_KEY="sk_SECRET")
    assert code == 0
    assert found["torch"]["state"] == "ok" and found["configuration"]["text"].endswith("models: demo")
    assert found["HF_TOKEN"] == {"name": "HF_TOKEN", "state": "ok", "text": "set"}
    assert "SECRET" not in json.dumps(found)
    assert "HF_HUB_OFFLINE is set" in found["hub"]["text"]
    assert str(tmp_path) in found["home"]["text"] and "GiB free" in found["home"]["text"]
    table = gradsim(tmp_path, "doctor", HF_HUB_OFFLINE="1").stdout.splitlines()
    assert table[0].split() == ["what", "state", "finding"] and not (tmp_path / "dagster").exists(), (
        "nothing is written"
    )


def test_what_is_in_the_way_ends_with_an_error(tmp_path: Path) -> None:
    code, found = findings(tmp_path, config='[data]\nparaphrases = "openai"\n', OPENAI_API_KEY="")
    assert code == 1 and found["OPENAI_API_KEY"]["state"] == "wrong"
    code, found = findings(tmp_path, config="[data]\nshard = 1\n")
    assert code == 1 and "unknown key data.shard" in found["configuration"]["text"]


def test_a_home_that_cannot_be_made_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found = findings(tmp_path, GRADSIM_HOME=str(tmp_path / "file/home"))
    assert code == 1 and found["home"]["state"] == "wrong" and "cannot be written" in found["home"]["text"]


def test_a_device_is_measured_on_request_and_kept(tmp_path: Path) -> None:
    _, found = findings(tmp_path)
    assert found["measured"]["state"] == "note" and "until `gradsim doctor --measure`" in found["measured"]["text"]
    run = gradsim(tmp_path, "doctor", "--measure", "--json", config="[data]\nshards = 1\n", HF_HUB_OFFLINE="1")
    assert run.returncode == 0, run.stderr
    (one,) = [one for one in json.loads(run.stdout) if one["name"] == "measured"]
    (file,) = (tmp_path / "calibrations").iterdir()
    kept = json.loads(file.read_text())
    assert one["state"] == "ok" and one["text"].startswith(f"{kept['device']}, fp32, ")
    assert f"torch {kept['torch']}, on {kept['measured_on']}" in one["text"] and "GFLOP/s in passes" in one["text"]
    _, found = findings(tmp_path)
    assert found["measured"] == one, "another process finds it"
    file.write_text("{")
    run = gradsim(tmp_path, "doctor", "--json", config="[data]\nshards = 1\n", HF_HUB_OFFLINE="1")
    assert f"{file} holds no rates of a device" in run.stderr and run.returncode == 0


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers, if only with 404."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_a_hub_is_reached_or_not(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        _, found = findings(tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT=address, no_proxy="*")
        assert found["hub"] == {"name": "hub", "state": "ok", "text": f"{address} answers"}
        server.shutdown()
    gone = f"http://127.0.0.1:{free_port()}"
    code, found = findings(tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT=gone, no_proxy="*")
    assert code == 0 and f"{gone} cannot be reached" in found["hub"]["text"]
