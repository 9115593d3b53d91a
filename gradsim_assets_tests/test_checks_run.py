"""The checks as Dagster runs them: per partition, with the file named."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.definitions import build_definitions
from gradsim_assets.io.tables import Partition, Tables
from gradsim_assets.settings import DataSettings, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, tables=str(tmp_path / "tables"), data=DataSettings(samples=8, shards=2))


def check(settings: Settings, instance: dg.DagsterInstance, shard: str) -> list[dg.AssetCheckEvaluation]:
    """Runs the check of the candidates alone, as "Execute" in the UI does."""
    job = build_definitions(settings).resolve_job_def("variants")
    key = dg.AssetCheckKey(dg.AssetKey("bm25_candidates"), "sound")
    part = job.get_subset(asset_selection=set(), asset_check_selection={key})
    result = part.execute_in_process(instance=instance, partition_key=shard, raise_on_error=False)
    return result.get_asset_check_evaluations()


def test_damage_under_one_partition_is_found_there_and_not_elsewhere(settings: Settings) -> None:
    instance = dg.DagsterInstance.ephemeral()
    definitions = build_definitions(settings)
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    for shard in ("00", "01"):
        run = definitions.resolve_job_def("variants").execute_in_process(instance=instance, partition_key=shard)
        found = run.get_asset_check_evaluations()
        assert {(e.asset_key.path[0], e.check_name, e.partition, e.passed) for e in found} == {
            ("paraphrased", "sound", shard, True),
            ("paraphrased", "no_flags", shard, True),
            ("bm25_candidates", "sound", shard, True),
        }
    path = Path(str(Tables(settings.tables).path(["bm25_candidates"], Partition(shard="01"))))
    pl.read_parquet(path, hive_partitioning=False)[1:].write_parquet(path)
    (evaluation,) = check(settings, instance, "01")
    assert not evaluation.passed
    assert f"{path} is foreign" in str(evaluation.description)
    assert check(settings, instance, "00")[0].passed
    path.write_bytes(b"PAR1")
    assert f"{path} is not a whole Parquet file" in str(check(settings, instance, "01")[0].description)


def test_flagged_paraphrases_are_a_warning(settings: Settings) -> None:
    instance, definitions = dg.DagsterInstance.ephemeral(), build_definitions(settings)
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    job = definitions.resolve_job_def("variants")
    assert job.execute_in_process(instance=instance, partition_key="00").success
    path = Path(str(Tables(settings.tables).path(["paraphrased"], Partition(shard="00"))))
    frame = pl.read_parquet(path, hive_partitioning=False)
    flagged = pl.when(pl.int_range(pl.len()) == 1).then(pl.lit("assistant: refusal"))
    frame.with_columns(flag=flagged).write_parquet(path)
    key = dg.AssetCheckKey(dg.AssetKey("paraphrased"), "no_flags")
    part = job.get_subset(asset_selection=set(), asset_check_selection={key})
    (evaluation,) = part.execute_in_process(instance=instance, partition_key="00").get_asset_check_evaluations()
    assert not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.WARN
    assert f"1 paraphrases are flagged 'assistant: refusal', such as {frame['id'][1]}" in str(evaluation.description)
