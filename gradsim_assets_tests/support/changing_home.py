"""A home with data files and a tiny model of its own, to change something in and see what is computed again.

Commands run in this process: the definitions are loaded anew by each, as they are by a command of its own process.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result

from gradsim_assets.cli import main
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.defs.checks.tables_up_to_date import status_records
from gradsim_assets.defs.datasets.paraphrases_source import PARAPHRASES_SOURCE
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets.runs.launcher import Launcher

#: A partition as tests write it: the table's asset and the key, without the model's slug ("dot_products_paraphrased", "01").
Named = tuple[str, str]

SAMPLES, SHARDS = 6, 3


@dataclass
class ChangingHome:
    """A home under `root`, with `originals.jsonl`, `paraphrases.jsonl` and `gradsim.toml` beside it, and a model in `folder`."""

    root: Path
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    data: dict[str, Any] = field(default_factory=dict)
    compute: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        # Pictures would be nine tenths of the time; what they are drawn from is computed all the same.
        self.monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
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
        sections = {"[data]": data, "[compute]": self.compute, "[[models]]": {"id": self.model_id, **self.model}}
        lines = [f"{title}\n" + "".join(map(_entry, values.items())) for title, values in sections.items()]
        (self.root / "gradsim.toml").write_text("".join(lines), encoding="utf-8")
        self.monkeypatch.chdir(self.root)
        self.monkeypatch.setenv("GRADSIM_HOME", str(self.home))
        self.monkeypatch.setenv("GRADSIM_CONFIG", str(self.root / "gradsim.toml"))
        self.monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def copy(self, root: Path) -> "ChangingHome":
        """The same in another place; the model stays where it is, since its path is its name."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return ChangingHome(root, self.folder, self.monkeypatch, dict(self.data), dict(self.compute), dict(self.model))

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

    def out_of_date(self) -> dict[Named, str]:
        """What is stale or missing now, with the status, as `tables_up_to_date` has it."""
        launcher = self.launcher
        records = status_records(launcher.instance, launcher.repository.asset_graph, launcher.files())
        return {self._named(r.data["table"], r.data["partition"]): str(r.data["status"]) for r in records}

    def computed(self, after: float) -> Counter[Named]:
        """How often each partition was materialised after a time; what is only observed counts as nothing."""
        instance = self.launcher.instance
        found: Counter[Named] = Counter()
        for key in set(instance.get_asset_keys()) - {HF_MODEL, PARAPHRASES_SOURCE}:
            wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=after)
            for record in instance.fetch_materializations(wanted, limit=1000).records:
                found[self._named(key.to_user_string(), record.partition_key or "")] += 1
        return found

    def passes(self, after: float) -> int:
        """How many gradient passes were made after a time."""
        instance, found = self.launcher.instance, set()
        for key in instance.get_asset_keys():
            if key.to_user_string().startswith(("dot_products", "projected_similarity")):
                wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=after)
                found |= {r.run_id for r in instance.fetch_materializations(wanted, limit=1000).records}
        return len(found)

    def tables(self) -> Mapping[str, pl.DataFrame]:
        """Every file of the tables, by its place under the root."""
        root = self.home / "tables"
        return {
            re.sub(r"model=[^/]*", "model=M", str(path.relative_to(root))): pl.read_parquet(
                path, hive_partitioning=False
            )
            for path in sorted(root.rglob("data.parquet"))
        }

    def _named(self, table: Any, partition: Any) -> Named:
        return str(table), "" if partition == self.slug else str(partition).removeprefix(f"{self.slug}|")


def _entry(entry: tuple[str, Any]) -> str:
    return f"{entry[0]} = {json.dumps(entry[1])}\n"
