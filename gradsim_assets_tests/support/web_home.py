"""A home with models and reports made of generated products, and the real server of its pages on loopback."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import dagster as dg
import polars as pl

from gradsim_assets.configuration import DataSettings
from gradsim_assets.core.analysis.control_comparison import control_comparison
from gradsim_assets.core.analysis.report import summary
from gradsim_assets.core.home import Home
from gradsim_assets.core.models.controls import untrained_id
from gradsim_assets.core.partition_keys import model_slug, shard_keys
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    GRADIENT_SIMILARITY,
    GREEDY_SELECTION,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
    RETRIEVAL,
    SELF_SIMILARITY,
    SETTINGS,
    TableSchema,
)
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.orchestration.model_registry import register
from gradsim_assets.runs.instance_file import provide
from gradsim_assets.runs.local_run_launcher import PROCESS_TAG
from gradsim_assets.runs.process_identity import ProcessIdentity
from gradsim_assets_tests.conftest import environment_of
from gradsim_assets_tests.support.report_case import Case
from gradsim_assets_tests.support.running_platform import free_port

#: With a report and a control, registered alone, and with a report that was written before there were headlines.
MODEL, CONTROL, BARE, OLD = "org/model", untrained_id("org/model"), "org/bare", "org/old@v1"

#: Where the pages believe Dagster's UI to be.
DAGSTER = "http://127.0.0.1:3000"


def _orphan() -> dg.DagsterRun:
    """A run that Dagster believes to be at work, and whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    process.communicate(b"\n")
    assert identity is not None and identity.is_gone
    tags = {PROCESS_TAG: str(identity)}
    return dg.DagsterRun("analyses", str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED, tags=tags)


#: The server as the control image has it: there is no torch that could be imported.
_WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft", "datasets", "faiss"):
    sys.modules[name] = None  # an import of it fails
from gradsim_assets.web.__main__ import main
main()
"""


class PagesServer:
    """The real server of a home's pages on loopback; a context manager. One that is `read_only` has no torch; others are given
    `options`."""

    def __init__(self, root: Path, *options: str, read_only: bool = False) -> None:
        self.home, self.port, self.read_only, self._options = Home(root), free_port(), read_only, options

    @property
    def address(self) -> str:
        """Where the pages are."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and text of an answer."""
        request = urllib.request.Request(self.address + path, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        status, text = self.get(path)
        return status, json.loads(text)

    def raw(self, path: str, method: str = "GET") -> tuple[int, str]:
        """The same for a path that is sent as it stands, as no client of good will does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=False)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def post(self, path: str, document: object, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a JSON document."""
        given = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.address + path, json.dumps(document).encode(), given)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def deleting(self, path: str) -> Any:
        """The answer to a DELETE, open to be read."""
        return urllib.request.urlopen(urllib.request.Request(self.address + path, method="DELETE"), timeout=60)

    def __enter__(self) -> Self:
        started = ["-c", _WITHOUT_TORCH, "--read-only"] if self.read_only else ["-m", "gradsim_assets.web"]
        command = [sys.executable, *started, "--port", str(self.port), "--dagster", DAGSTER, *self._options]
        self._log = (self.home.folder.parent / "web.log").open("ab")
        self._process = subprocess.Popen(
            command, env=environment_of(self.home.folder), stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self.get("/health")[0] == 200:
                    return self
            assert self._process.poll() is None, (self.home.folder.parent / "web.log").read_text()
            time.sleep(0.2)
        raise AssertionError("the server of the pages does not answer")

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def kill(self) -> None:
        """Ends the server's process as a machine that goes down does."""
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(30) in (0, -signal.SIGTERM, -signal.SIGKILL)
        self._log.close()


class WebHome(PagesServer):
    """The home and its server."""

    def __init__(self, root: Path, case: Case) -> None:
        super().__init__(root)
        self.case = case
        (root / "gradsim.toml").write_text("")
        provide(self.home.dagster)
        with dg.DagsterInstance.from_config(str(self.home.dagster)) as instance:
            for model in (MODEL, CONTROL, BARE, OLD):
                register(instance, model)
            self.orphan = instance.add_run(_orphan()).run_id
        for setting, results in case.settings.items():
            compared = control_comparison(results.similarity, {CONTROL: results.similarity})
            case.settings[setting] = replace(results, controls=compared)
        self._write_texts()
        for model in (MODEL, CONTROL):
            self._write(model)
        self._write(OLD, old=True)

    def _write(self, model: str, old: bool = False) -> None:
        folder, tables = self.home.report(model_slug(model)), Tables(str(self.home.tables))
        folder.joinpath("plots").mkdir(parents=True)
        folder.joinpath("index.html").write_text(self.case.html())
        folder.joinpath("plots/accuracy.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        found = {setting: results.retrieval for setting, results in self.case.settings.items()}
        controls = {setting: results.controls for setting, results in self.case.settings.items()}
        told = summary(model, "abc123", self.case.parameters, found, 0, controls)
        if old:
            del told["headline"]
        folder.joinpath("summary.json").write_text(json.dumps(told))
        for setting in SETTINGS:
            results = self.case.settings[setting]
            made = {
                GRADIENT_SIMILARITY.name: results.similarity,
                ACCURACY_PER_COMPONENT.name: results.accuracy,
                AGREEMENT.name: results.agreement,
                GREEDY_SELECTION.name: results.greedy,
                SELF_SIMILARITY.name: results.self_similarity,
                RETRIEVAL.name: results.retrieval,
            }
            for name, frame in made.items():
                tables.write([name, setting], frame, Partition(model_slug(model)))

    def _write_texts(self) -> None:
        """Originals and variants, cut into the shards that there are where nothing is configured."""
        tables, keys = Tables(str(self.home.tables)), shard_keys(DataSettings().shards)

        def whole(frame: pl.DataFrame | None, schema: TableSchema) -> pl.DataFrame:
            assert frame is not None
            rest = {"provider": pl.lit("file"), "prompt_tokens": 1, "completion_tokens": 1, "truncated": False}
            there = frame.with_columns(**{name: rest[name] for name in schema.columns if name in rest})
            missing = {name: None for name in schema.columns if name not in there.columns}
            return schema.enforce(there.with_columns(**missing).select(list(schema.columns)))

        tables.write([LIMA.name], whole(self.case.originals, LIMA), Partition())
        for setting, schema, models in (
            ("paraphrased", PARAPHRASED, (None,)),
            ("model_generated", MODEL_GENERATED, (MODEL, CONTROL)),
        ):
            frame = whole(self.case.settings[setting].variants, schema)
            size = -(-frame.height // len(keys))
            for model in models:
                for place, shard in enumerate(keys):
                    slug = None if model is None else model_slug(model)
                    tables.write([setting], frame.slice(place * size, size), Partition(slug, shard))

    def files(self) -> dict[str, bytes]:
        """Everything that lies in the home, by name."""
        return {str(path): path.read_bytes() for path in sorted(self.home.folder.rglob("*")) if path.is_file()}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        shutil.rmtree(self.home.folder)
