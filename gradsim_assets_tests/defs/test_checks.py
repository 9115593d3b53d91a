"""The checks as Dagster runs them: per partition, with the file named."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.configuration import DataSettings, ModelSettings, Settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets_tests.support.sample_files import rows, write
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, tables=str(tmp_path / "tables"), data=DataSettings(samples=8, shards=2))


@dataclass
class Place:
    """A materialised partition and its file."""

    settings: Settings
    instance: dg.DagsterInstance
    job: str
    key: tuple[str, ...]
    partition: str

    @property
    def path(self) -> Path:
        levels = self.partition.split("|")
        where = Partition(*levels) if len(levels) > 1 else Partition(shard=levels[0])
        return Path(str(Tables(self.settings.tables).path(self.key, where)))

    def check(self) -> dg.AssetCheckEvaluation:
        """Runs the check alone, as "Execute" in the UI does."""
        job = build_definitions(self.settings).resolve_job_def(self.job)
        key = dg.AssetCheckKey(asset_key(*self.key), "sound")
        part = job.get_subset(asset_selection=set(), asset_check_selection={key})
        result = part.execute_in_process(instance=self.instance, partition_key=self.partition, raise_on_error=False)
        (evaluation,) = result.get_asset_check_evaluations()
        return evaluation


@pytest.fixture(scope="module")
def materialised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """Candidates of two shards and gradients of one, with the checks that came with them."""
    root = tmp_path_factory.mktemp("checks")
    model = str(save_tiny_model(root / "model"))
    settings = Settings(
        home=root,
        tables=str(root / "tables"),
        data=DataSettings(samples=4, shards=2),
        models=(ModelSettings(id=model),),
    )
    instance, definitions = dg.DagsterInstance.ephemeral(), build_definitions(settings)
    instance.add_dynamic_partitions("model", [model_slug(model)])
    products = ("dot_products", "paraphrased")
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    for shard in ("00", "01"):
        run = definitions.resolve_job_def("variants").execute_in_process(instance=instance, partition_key=shard)
        assert {
            (e.asset_key.to_user_string(), e.check_name, e.partition, e.passed)
            for e in run.get_asset_check_evaluations()
        } == {
            ("paraphrased", "sound", shard, True),
            ("paraphrased", "no_flags", shard, True),
            ("bm25_candidates", "sound", shard, True),
            ("bm25_candidates", "no_zero_scores", shard, True),  # all four are candidates: none was chosen
        }
    run = definitions.resolve_job_def("gradients").execute_in_process(
        instance=instance, partition_key=f"{model_slug(model)}|01", asset_selection=[asset_key(*products)]
    )
    assert run.success
    return {
        "candidates": Place(settings, instance, "variants", ("bm25_candidates",), "01"),
        "elsewhere": Place(settings, instance, "variants", ("bm25_candidates",), "00"),
        "products": Place(settings, instance, "gradients", products, f"{model_slug(model)}|01"),
    }


def truncated(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def corrupted(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(byte ^ 0x55 for byte in content[4:200])  # pages; header and footer stay
    path.write_bytes(bytes(content))


def altered(path: Path, _: Path) -> None:
    """One value changed by a tool that keeps the file's metadata."""
    frame, metadata = pl.read_parquet(path, hive_partitioning=False), pl.read_parquet_metadata(path)
    column = next(name for name, dtype in frame.schema.items() if dtype == pl.Float64)
    changed = pl.when(pl.int_range(pl.len()) == 0).then(pl.col(column) * 0.999).otherwise(pl.col(column))
    ours = {name: value for name, value in metadata.items() if name == "gradsim"}
    frame.with_columns(changed.alias(column)).write_parquet(path, metadata=ours)


def foreign(path: Path, _: Path) -> None:
    pl.read_parquet(path, hive_partitioning=False)[1:].write_parquet(path)


def no_parquet(path: Path, _: Path) -> None:
    path.write_text("variant_id,original_id\n")


def misplaced(path: Path, elsewhere: Path) -> None:
    path.write_bytes(elsewhere.read_bytes())


@pytest.mark.parametrize("table", ["candidates", "products"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "is not a whole Parquet file"),
        (corrupted, "is corrupted"),
        (altered, "is corrupted: its content is not what was written"),
        (foreign, "is foreign: gradsim did not write it"),
        (no_parquet, "is not a whole Parquet file"),
        (misplaced, "belongs elsewhere: it was written as bm25_candidates shard=00"),
    ],
)
def test_damage_under_a_partition_is_found_there_and_named(
    damage: Callable[[Path, Path], None], said: str, table: str, materialised: dict[str, Place]
) -> None:
    place, sound = materialised[table], materialised["elsewhere"]
    whole = place.path.read_bytes()
    damage(place.path, sound.path)
    try:
        evaluation = place.check()
    finally:
        place.path.write_bytes(whole)
    assert not evaluation.passed
    assert f"{place.path} {said}" in str(evaluation.description)
    assert evaluation.partition == place.partition
    assert sound.check().passed and place.check().passed


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


def test_variants_without_an_answer_are_left_out_and_no_fault(tmp_path: Path) -> None:
    """Plain texts ask nothing: one shard has some of them, another nothing else."""
    model = str(save_tiny_model(tmp_path / "model"))
    plain = [{"id": name, "messages": [{"role": "text", "content": f"All of it is {name}."}]} for name in "bcd"]
    write(tmp_path / "o.jsonl", [*rows("a"), *plain])
    settings = Settings(
        home=tmp_path,
        folder=tmp_path,
        tables=str(tmp_path / "tables"),
        data=DataSettings(originals="o.jsonl", paraphrases="o.jsonl", shards=2, candidates=2),
        models=(ModelSettings(id=model),),
    )
    instance, definitions, slug = dg.DagsterInstance.ephemeral(), build_definitions(settings), model_slug(model)
    instance.add_dynamic_partitions("model", [slug])
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    for shard, answered in (("00", ["a"]), ("01", [])):
        assert (
            definitions.resolve_job_def("variants").execute_in_process(instance=instance, partition_key=shard).success
        )
        run = definitions.resolve_job_def("gradients").execute_in_process(
            instance=instance, partition_key=f"{slug}|{shard}"
        )
        assert run.success and all(check.passed for check in run.get_asset_check_evaluations())
        tables, partition = Tables(settings.tables), Partition(slug, shard)
        assert tables.read(["model_generated"], partition)["id"].to_list() == answered
        assert tables.read(["dot_products", "paraphrased"], partition)["variant_id"].n_unique() == 2
        left_out = 2 - len(answered)
        for key in (["model_generated"], ["dot_products", "model_generated"]):
            assert tables.read(key, partition).is_empty() is not bool(answered)
            assert tables.provenance(key, partition)["dropped"] == left_out
