"""A home with data files and a tiny model of its own, to change something in and see what is computed again.

Commands run in this process: the definitions are loaded anew by each, as they are by a command of its own process.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result
from dagster._core.storage.tags import BACKFILL_ID_TAG

from gradsim_assets import definitions
from gradsim_assets.cli import main
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.analysis.plots import panels, static
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs import code_version as versions
from gradsim_assets.defs.checks.tables_up_to_date import status_records
from gradsim_assets.defs.curvature.optimizer_states import OPTIMIZER_STATES
from gradsim_assets.defs.datasets.paraphrases_source import PARAPHRASES_SOURCE
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.defs.stages import STAGES
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.orchestration.dagster_internals import AssetGraphSubset, ReconstructableRepository, execute_job
from gradsim_assets.resources.by_name import resources
from gradsim_assets.runs.compute_profiles import Profile
from gradsim_assets.runs.environment import MODULE
from gradsim_assets.runs.launcher import Launcher
from gradsim_assets_tests.support.backfill_looks import BackfillLooks
from gradsim_assets_tests.support.same_tables import tables_of
from gradsim_assets_tests.support.tiny_models import save_optimizer_state, save_tiny_model

#: A partition as tests write it: the table's asset and the key, without the model's slug ("dot_products_paraphrased", "01"), of
#: its control with what the key has more ("dot_products_paraphrased", "+untrained|01").
Named = tuple[str, str]

SAMPLES, SHARDS = 6, 3

#: So many ticks of automation are enough for whatever follows from a change.
_TICKS = 12

_DEFINITIONS: dict[tuple[str, Path], dg.Definitions] = {}


@contextmanager
def finished_home(
    places: pytest.TempPathFactory,
    data: Mapping[str, Any],
    compute: Mapping[str, Any] | None = None,
    preconditioners: Mapping[str, Any] | None = None,
    **model: Any,
) -> "Iterator[ChangingHome]":
    """A home of four samples in which everything was computed, for tests that change copies of it; `model` as `save_tiny_model`.

    With preconditioners the model has the state of an optimizer, too.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = save_tiny_model(places.mktemp("model"), **model)
        home = ChangingHome(places.mktemp("finished"), folder, monkeypatch, dict(data), dict(compute or {}))
        home.write_samples(4)
        if preconditioners:
            save_optimizer_state(folder, home.root / "optimizer.pt")
            home.model["optimizer_state"] = "optimizer.pt"
            home.preconditioners.update(preconditioners)
            home.configure()
        home.run()
        assert home.out_of_date() == {}
        yield home


@dataclass
class ChangingHome:
    """A home under `root`, with `originals.jsonl`, `paraphrases.jsonl` and `gradsim.toml` beside it, and a model in `folder`."""

    root: Path
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    data: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    paraphraser: dict[str, Any] = field(default_factory=dict)
    preconditioners: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # empty: the section is not there
    index: dict[str, Any] = field(default_factory=dict)  # the same
    analysis: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        # Pictures would be nine tenths of the time; what they are drawn from is computed all the same.
        for module in (panels, static):
            self.monkeypatch.setattr(module, "as_plot", lambda name, *_: panels.Plot(name, name, "", b"", ""))
        self.monkeypatch.setattr(definitions, "build_definitions", _built)
        self.configure()

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def model_id(self) -> str:
        return str(self.folder)

    @property
    def slug(self) -> str:
        return model_slug(self.model_id)

    def write_samples(self, count: int = SAMPLES) -> None:
        """The first of the demo's samples as files."""
        for name, rows in (("originals", load_originals()), ("paraphrases", load_paraphrases())):
            self.write(name, rows[:count])

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / f"{name}.jsonl").read_text().splitlines()]

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        (self.root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def configure(self) -> None:
        """Writes `gradsim.toml` and points the environment to this home."""
        data = {
            "originals": "originals.jsonl",
            "paraphrases": "paraphrases.jsonl",
            "shards": SHARDS,
            **self.data,
        }
        model = {"id": self.model_id, **self.model}
        sections = {
            "[data]": data,
            "[paraphraser]": self.paraphraser,
            "[compute]": self.compute,
            "[preconditioners]": self.preconditioners,
            "[analysis]": self.analysis,
            "[evaluation]": self.evaluation,
            **({"[training]": self.training} if self.training else {}),
            **({"[index]": self.index} if self.index else {}),
            "[[models]]": model,
        }
        lines = [f"{title}\n" + "".join(map(_entry, values.items())) for title, values in sections.items()]
        (self.root / "gradsim.toml").write_text("".join(lines), encoding="utf-8")
        self.monkeypatch.chdir(self.root)
        self.monkeypatch.setenv("GRADSIM_HOME", str(self.home))
        self.monkeypatch.setenv("GRADSIM_CONFIG", str(self.root / "gradsim.toml"))
        self.monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def copy(self, root: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> "ChangingHome":
        """The same in another place; the model stays where it is, since its path is its name."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return self._at(root, monkeypatch or self.monkeypatch)

    def fresh(self, root: Path) -> "ChangingHome":
        """A home in which nothing was computed, with the data files and the configuration of this one."""
        shutil.copytree(self.root, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("home"))
        return self._at(root, self.monkeypatch)

    def _at(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> "ChangingHome":
        configured = (
            *(self.data, self.compute, self.model, self.paraphraser),
            *(self.preconditioners, self.evaluation, self.training, self.index, self.analysis),
        )
        return ChangingHome(root, self.folder, monkeypatch, *map(dict, configured))

    def command(self, *arguments: str) -> Result:
        """A command of the console script, in this process."""
        self.monkeypatch.delenv("DAGSTER_HOME", raising=False)
        return CliRunner().invoke(main, list(arguments), catch_exceptions=False)

    def run(self, *arguments: str) -> Result:
        """`gradsim run` of the model, which must succeed."""
        done = self.command("run", self.model_id, *arguments)
        assert done.exit_code == 0, done.output
        return done

    @property
    def launcher(self) -> Launcher:
        """On an instance that is opened anew."""
        instance = dg.DagsterInstance.from_config(str(self.home / "dagster"))
        os.environ.setdefault("DAGSTER_HOME", str(self.home / "dagster"))
        return Launcher(instance)

    def look(self) -> None:
        """One look of the sensor that observes models and the sources of samples."""
        launcher, settings = self.launcher, load_settings()
        found = resources(settings)
        context = dg.build_sensor_context(instance=launcher.instance, repository_def=launcher.repository)
        sensor = launcher.repository.get_sensor_def("observe_sources")
        result = sensor(context, hub=found.hub, sources=found.sources, store=found.store)
        for event in result.asset_events:  # type: ignore[union-attr]
            launcher.instance.report_runless_asset_event(event)

    def backfill(self, *arguments: str) -> None:
        """`gradsim backfill`, worked on as the daemon does, its runs in this process; they must succeed."""
        asked = self.command("backfill", *arguments)
        assert asked.exit_code == 0, asked.output
        launcher = self.launcher
        backfills = launcher.instance.get_backfills()
        if "up to date" in asked.output:
            return
        data = backfills[0].asset_backfill_data  # the newest comes first
        assert data is not None
        self._work_through(data.target_subset, backfills[0].backfill_id)

    def settle(self, cursor: str | None = None) -> str | None:
        """Ticks of the automation sensor, each after what the one before asked for is done, until two ask for nothing; its cursor."""
        quiet = 0
        for _ in range(_TICKS):
            requests, cursor = self._tick(cursor)
            for number, request in enumerate(requests):
                if request.asset_graph_subset:
                    self._work_through(request.asset_graph_subset, f"tick_{self.now()}_{number}")
                else:
                    self._execute(self.launcher.instance, request)
            quiet = 0 if requests else quiet + 1
            if quiet == 2:
                return cursor
        raise AssertionError(f"automation asks for more after {_TICKS} ticks")

    def _tick(self, cursor: str | None) -> tuple[Sequence[dg.RunRequest], str | None]:
        """What the automation sensor asks for now."""
        launcher = self.launcher
        sensor = launcher.repository.get_sensor_def("rerun_on_model_revision")
        context = dg.build_sensor_context(instance=launcher.instance, repository_def=launcher.repository, cursor=cursor)
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result.run_requests or [], result.cursor

    def _work_through(self, wanted: AssetGraphSubset, name: str) -> None:
        """A backfill, look by look."""
        launcher = self.launcher
        looks = BackfillLooks(launcher.instance, launcher.repository, wanted, name)
        looks.look()
        while looks.waiting:
            self._execute(launcher.instance, looks.waiting.pop(0), {BACKFILL_ID_TAG: name})
            looks.look()

    def _execute(
        self, instance: dg.DagsterInstance, request: dg.RunRequest, more: Mapping[str, str] | None = None
    ) -> None:
        """A run that the daemon would launch."""
        repository = ReconstructableRepository.for_module(MODULE, "defs", working_directory=os.getcwd())
        job, assets = repository.get_reconstructable_job("__ASSET_JOB"), list(request.asset_selection or ())
        key = request.partition_key
        tags = job.get_definition().get_tags_for_partition_key(key, assets) if key else {}
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        done = execute_job(job, instance, run_config=quiet, tags={**tags, **(more or {})}, asset_selection=assets)
        assert done.success, [event.message for event in done.all_events if event.is_failure]

    def planned(self) -> set[Named]:
        """What would be computed now, with all that may follow."""
        found = self.launcher.targets(STAGES)
        return {self._named(target.asset_key.to_user_string(), target.partition_key or "") for target in found}

    def now(self) -> int:
        """The number of the last event, whatever the clock says."""
        return self.launcher.instance.event_log_storage.get_maximum_record_id() or 0

    def out_of_date(self) -> dict[Named, str]:
        """What is stale or missing now, with the status, as `tables_up_to_date` has it."""
        launcher = self.launcher
        records = status_records(launcher.instance, launcher.repository.asset_graph, launcher.files())
        return {self._named(r.data["table"], r.data["partition"]): str(r.data["status"]) for r in records}

    def computed(self, after: float) -> Counter[Named]:
        """How often each partition was materialised after a time; what is only observed counts as nothing."""
        return Counter(
            self._named(key.to_user_string(), record.partition_key or "")
            for key, record in self._materialised()
            if record.timestamp > after
        )

    def computed_since(self, event: int) -> Counter[Named]:
        """As `computed`, after an event (see `now`)."""
        return Counter(
            self._named(key.to_user_string(), record.partition_key or "")
            for key, record in self._materialised()
            if record.storage_id > event
        )

    def runs_since(self, event: int, table: str) -> set[str]:
        """The runs after an event that made assets whose names begin so."""
        return {
            record.run_id
            for key, record in self._materialised()
            if key.to_user_string().startswith(table) and record.storage_id > event
        }

    def passes(self, after: float) -> int:
        """How many gradient passes were made after a time."""
        return len({r.run_id for key, r in self._materialised() if _of_a_pass(key) and r.timestamp > after})

    def cost_since(self, event: int) -> tuple[int, int]:
        """How many gradient passes were made after an event, and how many gradients they took."""
        gradients = {
            record.run_id: int(str(record.asset_materialization.metadata["gradients_computed"].value))  # type: ignore[union-attr]
            for key, record in self._materialised()
            if _of_a_pass(key) and record.storage_id > event
        }
        return len(gradients), sum(gradients.values())

    def _materialised(self) -> Iterator[tuple[dg.AssetKey, dg.EventLogRecord]]:
        instance = self.launcher.instance
        for key in set(instance.get_asset_keys()) - {HF_MODEL, PARAPHRASES_SOURCE, OPTIMIZER_STATES}:
            for record in instance.fetch_materializations(key, limit=1000).records:
                yield key, record

    def tables(self) -> Mapping[str, pl.DataFrame]:
        """Every file of the tables, by its place under the root."""
        return tables_of(self.home / "tables")

    def _named(self, table: Any, partition: Any) -> Named:
        return str(table), str(partition).removeprefix(self.slug).removeprefix("|")


def _built(settings: Settings, profiles: Mapping[str, Profile]) -> dg.Definitions:
    """The definitions, built once for a configuration and a folder of code: a run asks for them again and again."""
    key = (settings.model_dump_json(), versions.PACKAGE)
    if key not in _DEFINITIONS:
        _DEFINITIONS[key] = build_definitions(settings, profiles)
    return _DEFINITIONS[key]


def _of_a_pass(key: dg.AssetKey) -> bool:
    return key.to_user_string().startswith(("dot_products", "projected_similarity", "preconditioned_products"))


def _entry(entry: tuple[str, Any]) -> str:
    return f"{entry[0]} = {json.dumps(entry[1])}\n"
