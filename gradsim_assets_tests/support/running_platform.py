"""A real instance with web server, code server and daemon, driven through the UI's GraphQL."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.datasets.paraphrases_source import PARAPHRASES_SOURCE
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.orchestration.asset_keys import on_request
from gradsim_assets.orchestration.dagster_internals import NOT_FINISHED_STATUSES
from gradsim_assets.runs.instance_file import shipped
from gradsim_assets_tests.conftest import COMMAND

REPOSITORY = "__repository__"
LOCATION = "gradsim_assets.definitions"


class Platform:
    """`dagster dev` on a home of its own; the instance is opened here as well, to look at what happened."""

    def __init__(self, home: Path, config: str, **environment: str) -> None:
        self.home = home
        self.dagster_home = home / "dagster"
        self.dagster_home.mkdir(parents=True)
        (self.dagster_home / "dagster.yaml").write_text(shipped().read_text())
        (home / "gradsim.toml").write_text(config)
        self.port, self.web_port = free_port(), free_port()
        self.environment = {
            **os.environ,
            "GRADSIM_HOME": str(home),
            "GRADSIM_CONFIG": str(home / "gradsim.toml"),
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(["."] + [p for p in [os.environ.get("PYTHONPATH")] if p]),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def instance(self) -> dg.DagsterInstance:
        """The instance, opened anew so that nothing is cached."""
        return dg.DagsterInstance.from_config(str(self.dagster_home))

    def start(self) -> None:
        """Starts web server, code server and daemon, and waits until they answer."""
        command = [*COMMAND, "ui", "--port", str(self.port), "--web-port", str(self.web_port)]
        log = (self.home / "dev.log").open("ab")
        self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.wait(self._loaded, 180, "the web server to answer")

    def stop(self) -> None:
        """Stops all of it, the runs too: they were started in the same session."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The processes that are there now, by what they are: "daemon", "code server", "step" (a run's process)."""
        found: dict[str, list[psutil.Process]] = {"daemon": [], "code server": [], "step": []}
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                command = " ".join(process.cmdline())
                # All that was started here, orphans too, sees this home.
                if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("GRADSIM_HOME") != str(self.home):
                    continue
                if "dagster._daemon" in command:
                    found["daemon"].append(process)
                elif "dagster api grpc" in command or "dagster code-server" in command:
                    found["code server"].append(process)
                elif "multiprocessing.spawn" in command:
                    found["step"].append(process)
        return found

    def _loaded(self) -> bool:
        """Whether the web server answers and sees the definitions."""
        asked = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        with suppress(OSError):
            return bool(self.query(asked)["repositoriesOrError"].get("nodes"))
        return False

    def status(self, backfill_id: str) -> str:
        """The status of a backfill."""
        return str(self.instance.get_backfill(backfill_id).status.value)  # type: ignore[union-attr]

    def query(self, text: str, **variables: Any) -> Any:
        """The data of a GraphQL answer; fails on errors."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(request, timeout=120))
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def assets(self, requested: bool = False) -> list[list[str]]:
        """Keys of everything that is kept up to date, in topological order; `requested` adds what is made on request alone."""
        graph = build_definitions(load_settings(self.environment)).get_repository_def().asset_graph
        kept = [key for key in graph.toposorted_asset_keys if requested or not on_request(key)]
        return [list(key.path) for key in kept if graph.get(key).is_materializable]

    def switch_on(self, sensor: str) -> None:
        """Starts a sensor as the switch in the UI does."""
        selector = {"repositoryName": REPOSITORY, "repositoryLocationName": LOCATION, "sensorName": sensor}
        answer = self.query(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }", s=selector
        )
        assert answer["startSensor"]["__typename"] == "Sensor", answer

    def add_model(self, key: str) -> str:
        """What the UI's "add partition" dialog does; the name of the answer's type."""
        selector = {"repositoryName": REPOSITORY, "repositoryLocationName": LOCATION}
        answer = self.query(
            "mutation($r: RepositorySelector!, $k: String!) { addDynamicPartition(repositorySelector: $r, "
            'partitionsDefName: "model", partitionKey: $k) { __typename } }',
            r=selector,
            k=key,
        )
        return str(answer["addDynamicPartition"]["__typename"])

    def backfill(self, assets: Sequence[Sequence[str]], partitions: Sequence[str] | None = None) -> str:
        """Launches a backfill (over all partitions by default) and returns its id."""
        parameters: dict[str, Any] = {"assetSelection": [{"path": list(path)} for path in assets], "tags": []}
        parameters |= {"allPartitions": True} if partitions is None else {"partitionNames": list(partitions)}
        answer = self.query(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
            "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p=parameters,
        )["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Waits until the condition holds and returns it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(1)
        raise AssertionError(f"waited {seconds:.0f} s for {what}; log: {self.home / 'dev.log'}")

    def wait_for_backfill(self, backfill_id: str, seconds: float = 1200) -> str:
        """The status that a backfill ends with."""

        def ended() -> str | None:
            status = self.status(backfill_id)
            return None if status in ("REQUESTED", "CANCELING", "FAILING") else status

        return str(self.wait(ended, seconds, f"backfill {backfill_id} to end"))

    def busy(self) -> bool:
        """Whether runs are queued or at work."""
        return bool(self.instance.get_runs(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)), limit=1))

    def materialised(self, after: float) -> Counter[tuple[str, str | None]]:
        """How often each (table, partition) was materialised after a time; what is only observed counts as nothing."""
        instance = self.instance
        found: Counter[tuple[str, str | None]] = Counter()
        for key in set(instance.get_asset_keys()) - {HF_MODEL, PARAPHRASES_SOURCE}:
            wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=float(after))
            for record in instance.fetch_materializations(wanted, limit=10_000).records:
                found[key.to_user_string(), record.partition_key] += 1
        return found


def table_of(path: Path, root: Path) -> tuple[list[str], Partition]:
    """The table and the partition that a file under the root of the tables belongs to."""
    parts = path.parent.relative_to(root).parts
    levels = dict(part.split("=", 1) for part in parts if "=" in part)
    return [part for part in parts if "=" not in part], Partition(**levels)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
