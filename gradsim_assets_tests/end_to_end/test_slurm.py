"""`gradsim slurm` on a real cluster: slurmctld, slurmd and munged of this machine."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets_tests.conftest import COMMAND, environment_of
from gradsim_assets_tests.support.same_tables import differences, tables_of
from gradsim_assets_tests.support.slurm_cluster import missing, slurm_cluster
from gradsim_assets_tests.support.tiny_models import save_tiny_model

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM here ({', '.join(missing())}); install slurm-wlm and munge"),
]

_CONFIG = """
[data]
originals = "originals.jsonl"
paraphrases = "paraphrases.jsonl"
shards = 2

[preconditioners]
methods = ["ekfac"]

[slurm]
options = {{ time = "00:10:00", cpus-per-task = 1 }}
setup = ["export GRADSIM_TEST_MODULE=loaded"]
at_once = 1

[[models]]
id = "{model}"
"""


@dataclass
class Home:
    """A home with its configuration and data, and the cluster that its commands see."""

    root: Path
    model: str
    cluster: dict[str, str]

    @property
    def tables(self) -> Path:
        return self.root / "home" / "tables"

    @property
    def arrays(self) -> Path:
        return self.root / "home" / "slurm"

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of the console script in the folder of the configuration."""
        variables = environment_of(self.root / "home", GRADSIM_CONFIG=str(self.root / "gradsim.toml"), **self.cluster)
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.root,
            env={**variables, **environment},
            capture_output=True,
            text=True,
            timeout=3000,
        )

    def slurm(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.command("slurm", self.model, "--interval", "0.5", *arguments, **environment)

    def standings(self) -> dict[str, int]:
        """Partitions by state, of what is made without being asked for."""
        stages = json.loads(self.command("status", "--json").stdout)
        counted = [one for one in stages if one["stage"] not in ("evaluation", "retraining", "counterfactuals")]
        return {
            state: sum(one[state] for one in counted) for state in ("done", "stale", "failed", "running", "missing")
        }


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the path of a socket is short
    try:
        with slurm_cluster(folder) as environment:
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def home_in(root: Path, model: Path, cluster: dict[str, str]) -> Home:
    """A home of six samples in two shards, with nothing computed."""
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in (("originals", load_originals()), ("paraphrases", load_paraphrases())):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:6]), encoding="utf-8")
    (root / "gradsim.toml").write_text(_CONFIG.format(model=model), encoding="utf-8")
    return Home(root, str(model), cluster)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Home:
    """The same home, computed by `gradsim run`."""
    home = home_in(tmp_path_factory.mktemp("by_hand"), model, {})
    done = home.command("run", str(model))
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def test_an_array_job_makes_what_a_run_makes(
    tmp_path: Path, model: Path, cluster: dict[str, str], by_hand: Home
) -> None:
    home = home_in(tmp_path, model, cluster)
    done = home.slurm()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "curvature, 1 task;" in done.stdout and "gradients, 2 tasks;" in done.stdout
    assert "BM25" in done.stdout or "bm25" in done.stdout  # the figures, as `gradsim run` tells them
    assert differences(tables_of(home.tables), tables_of(by_hand.tables)) == []
    assert home.standings() == by_hand.standings()
    assert home.standings()["done"] > 0 and sum(home.standings().values()) == home.standings()["done"]
    assert list(home.arrays.iterdir()) == []

    again = home.slurm()
    assert again.returncode == 0 and "job " not in again.stdout
    by_run = home.command("run", home.model)
    assert by_run.returncode == 0 and "Everything is there and up to date." in by_run.stdout


def test_what_an_array_job_made_goes_back_to_its_sources_and_goes_stale_with_them(
    tmp_path: Path, model: Path, cluster: dict[str, str]
) -> None:
    home = home_in(tmp_path, model, cluster)
    assert home.slurm().returncode == 0
    sample = json.loads((home.root / "originals.jsonl").read_text().splitlines()[0])["id"]
    chain = home.command("explain", "gradient_similarity_paraphrased", home.model, sample)
    assert chain.returncode == 0 and all(name in chain.stdout for name in ("dot_products", "bm25_candidates", "lima"))

    paraphrases = home.root / "paraphrases.jsonl"
    rows = [json.loads(line) for line in paraphrases.read_text().splitlines()]
    rows[-1]["messages"][0]["content"] += " Please."
    paraphrases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = home.slurm()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradients, 1 task;" in done.stdout  # the other shard is as it was
    assert "curvature" not in done.stdout
    assert home.standings()["stale"] == 0


def test_a_detached_job_is_collected_by_the_same_command(tmp_path: Path, model: Path, cluster: dict[str, str]) -> None:
    home = home_in(tmp_path, model, cluster)
    begun = home.slurm("--detach")
    assert begun.returncode == 0 and "At work" in begun.stdout
    assert home.standings()["missing"] > 0
    ended = home.slurm()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "job " not in ended.stdout  # the jobs of before, and no others
    assert home.standings()["missing"] == 0


def test_tasks_that_fail_or_die_are_told_with_their_logs_and_made_by_the_next_command(
    tmp_path: Path, model: Path, cluster: dict[str, str]
) -> None:
    home = home_in(tmp_path, model, cluster)
    settings = home.root / "gradsim.toml"
    right = settings.read_text()
    # The task of shard 01 is killed before it does anything, as a cluster kills what takes too long.
    kill = 'setup = ["if [ $SLURM_ARRAY_TASK_ID = 2 ]; then kill -9 $$; fi"]'
    settings.write_text(right.replace('setup = ["export GRADSIM_TEST_MODULE=loaded"]', kill))
    done = home.slurm()
    assert done.returncode == 1
    slug = model_slug(home.model)
    assert f"✗ gradients {slug}|01: the task ended without a result" in done.stderr
    assert f"✓ gradients {slug}|00" in done.stdout
    log = Path(done.stderr.split("its log is ")[1].splitlines()[0])
    assert log.parent.parent == home.arrays and log.exists()
    assert home.standings()["failed"] == 0 and home.standings()["missing"] > 0

    settings.write_text(right)
    mended = home.slurm()
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "gradients, 1 task;" in mended.stdout
    assert home.standings()["missing"] == 0


def test_a_dry_run_shows_the_scripts_and_submits_nothing(tmp_path: Path, model: Path, cluster: dict[str, str]) -> None:
    home = home_in(tmp_path, model, cluster)
    shown = home.slurm("--dry-run")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "#SBATCH --array=1-2%1" in lines and "#SBATCH --time=00:10:00" in lines
    assert "export GRADSIM_TEST_MODULE=loaded" in lines
    assert f"export GRADSIM_CONFIG={home.root / 'gradsim.toml'}" in lines
    assert not home.arrays.exists()
    assert home.standings()["done"] == 0
    script = tmp_path / "shown.sh"
    script.write_text(shown.stdout[shown.stdout.index("#!/bin/bash") :])
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_what_the_cluster_refuses_is_said_with_its_own_words(
    tmp_path: Path, model: Path, cluster: dict[str, str]
) -> None:
    home = home_in(tmp_path, model, cluster)
    settings = home.root / "gradsim.toml"
    settings.write_text(settings.read_text().replace("cpus-per-task = 1", 'partition = "coffee"'))
    refused = home.slurm()
    assert refused.returncode == 2
    assert "sbatch refuses the job" in refused.stderr and "invalid partition" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(home.arrays.iterdir()) == []


def test_without_sbatch_there_is_one_sentence(tmp_path: Path, model: Path, cluster: dict[str, str]) -> None:
    home = home_in(tmp_path, model, cluster)
    empty = tmp_path / "bin"
    empty.mkdir()
    refused = home.slurm(PATH=str(empty))
    assert refused.returncode == 2
    assert "there is no sbatch on this machine" in refused.stderr
