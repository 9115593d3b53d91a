"""kill -9 of a step in the middle of a backfill of the evaluation: the daemon goes on there, and the same figures come out."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.audit import read_audited
from gradsim_assets.core.tables.storage import Tables
from gradsim_assets.orchestration.asset_keys import ON_REQUEST, table_path
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.running_platform import Platform, table_of
from gradsim_assets_tests.support.same_tables import differences, tables_of
from gradsim_assets_tests.support.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

CONFIG = """
[data]
samples = 6
shards = 2

[evaluation]
pairs = 4
subsets = 3
removal_variants = 2
removal_draws = 1

[training]
steps = 60
batch_size = 2
learning_rate = 1e-3
"""


def test_every_table_of_the_evaluation_survives_a_kill_in_a_backfill(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = f'{CONFIG}[[models]]\nid = "{folder}"\n'
    reference = tmp_path / "reference"
    for part in ("evaluation", "tokens"):
        undisturbed = gradsim(reference, "run", str(folder), "--only", part, config=config, OMP_NUM_THREADS="1")
        assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr

    platform = Platform(tmp_path / "platform", config)
    platform.instance.add_dynamic_partitions("model", [model_slug(str(folder))])
    finished = platform.home / "retrainings"
    platform.start()
    try:
        backfill = platform.backfill(platform.assets(requested=True))
        platform.wait(lambda: list(finished.rglob("*.json")), 1800, "the first retraining to be finished")
        kept = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
        killed = kill_steps(platform)
        assert platform.wait_for_backfill(backfill, 1800) == "COMPLETED_SUCCESS"
    finally:
        platform.stop()

    assert killed, "nothing was at work"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was finished is not done again"
    for key in ON_REQUEST:
        table = table_path(key)
        found, wanted = (tables_of(home / "tables" / Path(*table)) for home in (platform.home, reference))
        assert found and differences(found, wanted) == []
    for path in (platform.home / "tables").rglob("data.parquet"):
        _, findings = read_audited(Tables(str(platform.home / "tables")), *table_of(path, platform.home / "tables"))
        assert findings == []


def kill_steps(platform: Platform) -> list[int]:
    """Kills whatever works on a run now, the helpers of a step, too; their ids."""
    killed: list[int] = []
    deadline = time.monotonic() + 120
    while not killed and time.monotonic() < deadline:
        for process in platform.processes()["step"]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
        time.sleep(0.1)
    return killed
