"""kill -9 of the daemon, the code server and steps at random moments of a backfill: what is left, and what is computed again.

GRADSIM_TEST_KILLS says how often (20 are what we promise), GRADSIM_TEST_SEED repeats a run that failed.
"""

import os
import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path

import dagster as dg
import psutil
import pytest
from upath import UPath

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.audit import read_audited
from gradsim_assets.core.tables.storage import Tables, check_parquet
from gradsim_assets.orchestration.dagster_internals import DagsterEventType
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.running_platform import Platform, table_of
from gradsim_assets_tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("GRADSIM_TEST_KILLS", "6"))
SEED = int(os.environ.get("GRADSIM_TEST_SEED", str(time.time_ns() % 10**6)))
VICTIMS = ("daemon", "code server", "step")
CONFIG = "[data]\nsamples = 6\nshards = 3\n"


def tables_of(home: Path) -> dict[str, Path]:
    """Every visible file of the tables, by its place."""
    root = home / "tables"
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("data.parquet"))}


def computed_without_need(instance: dg.DagsterInstance, after: float) -> list[str]:
    """Partitions that were materialised again although the step that had made them was finished."""
    made: dict[tuple[dg.AssetKey, str | None], list[dg.EventLogRecord]] = defaultdict(list)
    for key in instance.get_asset_keys():
        wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=after)
        for record in instance.fetch_materializations(wanted, limit=1000, ascending=True).records:
            made[key, record.partition_key].append(record)
    needless = []
    for (key, partition), records in made.items():
        for record in records[:-1]:
            finished = instance.all_logs(record.run_id, of_type=DagsterEventType.STEP_SUCCESS)
            if record.event_log_entry.step_key in {event.step_key for event in finished}:
                needless.append(f"{key.to_user_string()} {partition} in run {record.run_id}")
    return needless


def test_a_backfill_survives_kills_and_computes_nothing_twice(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    choose = random.Random(SEED)
    folders = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    config = CONFIG + "".join(f'[[models]]\nid = "{folder}"\n' for folder in folders)
    reference = tmp_path / "reference"
    for folder in folders:
        undisturbed = gradsim(reference, "run", str(folder), config=config, OMP_NUM_THREADS="1")
        assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr

    platform = Platform(tmp_path / "platform", config)
    for folder in folders:
        platform.instance.add_dynamic_partitions("model", [model_slug(str(folder))])
    killed: Counter[str] = Counter()
    rounds = 0
    platform.start()
    try:
        while sum(killed.values()) < KILLS:
            rounds += 1
            started = time.time()
            backfill = platform.backfill(platform.assets())
            while platform.status(backfill) == "REQUESTED" and sum(killed.values()) < KILLS:
                if victim := kill_one(platform, choose, killed):
                    killed[victim] += 1
                    print(f"{time.time() - started:.0f} s: killed the {victim}", flush=True)
                for path in tables_of(platform.home).values():
                    check_parquet(UPath(path))
            assert platform.wait_for_backfill(backfill, 1800) == "COMPLETED_SUCCESS"
            print(f"round {rounds}: {time.time() - started:.0f} s, {dict(killed)}", flush=True)
            assert computed_without_need(platform.instance, started) == []
    finally:
        platform.stop()

    expected, found = tables_of(reference), tables_of(platform.home)
    assert set(found) == set(expected)
    for place, path in found.items():
        key, partition = table_of(path, platform.home / "tables")
        frame, findings = read_audited(Tables(str(platform.home / "tables")), key, partition)
        undisturbed_frame, _ = read_audited(Tables(str(reference / "tables")), key, partition)
        assert findings == []
        assert frame is not None and frame.equals(undisturbed_frame), f"{place} differs from the undisturbed run"


def kill_one(platform: Platform, choose: random.Random, killed: Counter[str]) -> str | None:
    """Kills a process of the kind that was killed least often, some time after there is one; None if it got away."""
    fewest = min(killed[kind] for kind in VICTIMS)
    kind = choose.choice([kind for kind in VICTIMS if killed[kind] == fewest])
    deadline = time.monotonic() + 120
    while not platform.processes()[kind] and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(choose.uniform(0, 12))
    there = platform.processes()[kind]
    if not there:
        return None
    victim: psutil.Process = choose.choice(there)
    try:
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
    except psutil.NoSuchProcess:
        return None
    return kind
