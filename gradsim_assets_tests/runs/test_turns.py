"""Commands that want the same work at the same time: each partition is computed once."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.defs.stages import ORIGINALS
from gradsim_assets.runs.instance_file import shipped
from gradsim_assets.runs.local_run_launcher import PROCESS_TAG
from gradsim_assets.runs.others_at_work import COMMAND_TAGS, are_taken, is_worked_on
from gradsim_assets.runs.process_identity import ProcessIdentity
from gradsim_assets.runs.turns import in_turn
from gradsim_assets_tests.conftest import COMMAND, environment_of, gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model

CONFIG = "[data]\nsamples = 6\nshards = 3\ncandidates = 2\n"


def computed(home: Path) -> Counter[tuple[str, str | None]]:
    """How often every partition of every asset was materialised."""
    found: Counter[tuple[str, str | None]] = Counter()
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        for key in instance.get_asset_keys():
            for record in instance.fetch_materializations(key, limit=1000).records:
                found[key.to_user_string(), record.partition_key] += 1
    return found


@pytest.mark.slow
def test_two_commands_at_once_compute_every_partition_once(tmp_path: Path) -> None:
    home, model = tmp_path / "home", save_tiny_model(tmp_path / "model")
    home.mkdir()
    (home / "gradsim.toml").write_text(CONFIG)
    command = [*COMMAND, "run", str(model)]
    pair = [
        subprocess.Popen(command, env=environment_of(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=600)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    counts = computed(home)
    assert {one: count for one, count in counts.items() if count > 1} == {}
    of_shards = [partition for table, partition in counts if table == "dot_products_paraphrased"]
    assert len(of_shards) == 3 and ("model_comparison", None) in counts
    assert "Everything is there" in gradsim(home, "run", str(model), config=CONFIG).stdout


def turns(folder: Path, partitions: list[str], busy: set[str], waits: list[bool]) -> Iterator[str | None]:
    return in_turn(folder, "job", partitions, lambda partition: partition in busy, lambda: waits.append(True))


def test_what_another_works_on_comes_last_and_is_waited_for(tmp_path: Path) -> None:
    waits: list[bool] = []
    others = turns(tmp_path, ["00", "01"], set(), [])
    assert next(others) == "00"
    mine = turns(tmp_path, ["00", "01", "02"], set(), waits)
    assert [next(mine), next(mine)] == ["01", "02"] and not waits
    timer = threading.Timer(0.5, others.close)  # type: ignore[attr-defined]
    timer.start()
    assert list(mine) == ["00"] and waits == [True]


def test_a_run_of_the_daemon_is_waited_for_too(tmp_path: Path) -> None:
    busy, waits = {"00"}, []
    mine = turns(tmp_path, ["00", "01"], busy, waits)
    assert next(mine) == "01"
    threading.Timer(0.5, busy.clear).start()
    assert list(mine) == ["00"] and waits == [True]


def test_a_place_in_a_pool_that_a_living_command_holds_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(shipped().read_text())
    instance = dg.DagsterInstance.from_config(str(tmp_path))
    assert not are_taken(instance, {"gpu"})
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    for name, tags, taken in (("command", COMMAND_TAGS, True), ("daemon", {}, False)):
        run = dg.DagsterRun("j", name, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: str(me), **tags})
        instance.add_run(run)
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        assert instance.event_log_storage.claim_concurrency_slot("gpu", name, "step").is_claimed
        assert are_taken(instance, {"gpu"}) is taken, name
        instance.event_log_storage.free_concurrency_slots_for_run(name)
        assert not are_taken(instance, {"gpu"})


def test_a_killed_process_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from gradsim_assets.runs.turns import in_turn\n"
        f"for one in in_turn(Path({str(tmp_path)!r}), 'job', ['00'], lambda _: False, lambda: None):\n"
        "    print(one, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "00\n"
    waits: list[bool] = []
    mine = turns(tmp_path, ["00"], set(), waits)
    threading.Timer(0.5, process.kill).start()
    assert next(mine) == "00" and waits == [True]
    process.wait()


@pytest.mark.parametrize(
    ("alive", "asset", "waits"), [(True, "lima", True), (False, "lima", False), (True, "x", False)]
)
def test_only_a_living_run_of_the_same_assets_is_waited_for(alive: bool, asset: str, waits: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    if not alive:
        process.communicate(b"\n")
    instance = dg.DagsterInstance.ephemeral()
    instance.add_run(
        dg.DagsterRun(
            ORIGINALS.job,
            status=dg.DagsterRunStatus.STARTED,
            asset_selection=frozenset([dg.AssetKey(asset)]),
            tags={PROCESS_TAG: str(identity)},
        )
    )
    assert is_worked_on(instance, ORIGINALS.job, None, {dg.AssetKey("lima")}) is waits
    process.kill()
    process.wait()
