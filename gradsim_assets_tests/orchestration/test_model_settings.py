"""Settings of one model: what it is computed with, and that a change leaves its own tables stale and no other's."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.configuration import DataSettings, ModelSettings, Settings
from gradsim_assets.core.candidates.bm25_candidates import model_candidates, top_candidates
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.dagster_internals import StaleStatus
from gradsim_assets.orchestration.observations import observation
from gradsim_assets.orchestration.stale_status import StatusResolver
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.tiny_models import save_tiny_model

PRODUCTS = ("dot_products", "paraphrased")


@dataclass
class Study:
    """Two models of one instance; `configure` gives the settings of the second one."""

    root: Path
    instance: dg.DagsterInstance

    def configure(self, **of_b: object) -> None:
        models = (ModelSettings(id=self.id("a")), ModelSettings.model_validate({"id": self.id("b"), **of_b}))
        data = DataSettings(samples=8, shards=1, candidates=3)
        self.settings = Settings(home=self.root, tables=str(self.root / "tables"), data=data, models=models)
        self.defs = build_definitions(self.settings)
        hub = resources(self.settings).hub
        for name in ("a", "b"):
            version = hub.version_now(self.id(name))
            self.instance.report_runless_asset_event(observation(HF_MODEL, version, self.slug(name)))

    def id(self, name: str) -> str:
        return str(self.root / name)

    def slug(self, name: str) -> str:
        return model_slug(self.id(name))

    def run(self, job: str, partition: str | None = None, *assets: str) -> dg.ExecuteInProcessResult:
        selection = [asset_key(*PRODUCTS)] if assets else None
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=partition, asset_selection=selection, raise_on_error=False
        )

    def products(self, name: str) -> dg.ExecuteInProcessResult:
        return self.run("gradients", f"{self.slug(name)}|00", "products")

    def table(self, name: str) -> pl.DataFrame:
        return self.tables.read(PRODUCTS, Partition(self.slug(name), "00"))

    @property
    def tables(self) -> Tables:
        return Tables(self.settings.tables)

    def status(self, key: tuple[str, ...], partition: str) -> StaleStatus:
        resolver = StatusResolver(self.instance, self.defs.get_repository_def().asset_graph)
        return resolver.get_status(asset_key(*key), partition)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    for seed, name in enumerate("ab"):
        save_tiny_model(tmp_path / name, seed=seed)
    study = Study(tmp_path, dg.DagsterInstance.ephemeral())
    study.configure()
    study.instance.add_dynamic_partitions("model", [study.slug("a"), study.slug("b")])
    assert study.run("originals").success and study.run("variants", "00").success
    assert study.products("a").success and study.products("b").success
    return study


def per_variant(frame: pl.DataFrame) -> set[int]:
    return set(frame.group_by("variant_id").agg(pl.col("original_id").n_unique())["original_id"])


def test_a_model_may_ask_for_more_candidates_and_no_other_model_is_touched(study: Study) -> None:
    assert study.status(PRODUCTS, f"{study.slug('a')}|00") == StaleStatus.FRESH
    study.configure(candidates=5)
    assert study.status(("bm25_candidates",), "00") == StaleStatus.STALE
    refused = study.products("b")
    said = next(e.step_failure_data.user_failure_data.description for e in refused.all_events if e.is_step_failure)
    assert said == (
        "bm25_candidates shard=00 holds 3 candidates of each variant, and 5 are asked for; materialise it again first."
    )
    assert study.run("variants", "00").success
    assert study.status(PRODUCTS, f"{study.slug('a')}|00") == StaleStatus.FRESH
    assert study.status(PRODUCTS, f"{study.slug('b')}|00") == StaleStatus.STALE
    before = study.table("a")
    for name in "ab":
        result = study.products(name)
        assert result.success
        assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    assert study.status(PRODUCTS, f"{study.slug('b')}|00") == StaleStatus.FRESH
    assert per_variant(study.table("b")) == {5}
    assert study.table("a").equals(before), "those of a model with fewer are what they were"
    held = study.tables.read(["bm25_candidates"], Partition(shard="00"))
    assert model_candidates(study.tables, ["00"], 3).equals(top_candidates(held, 3))


def test_fewer_candidates_and_another_dtype_are_that_models_alone(study: Study) -> None:
    study.configure(candidates=2, dtype="bfloat16")
    assert study.status(("bm25_candidates",), "00") == StaleStatus.FRESH
    assert study.status(PRODUCTS, f"{study.slug('a')}|00") == StaleStatus.FRESH
    assert study.status(PRODUCTS, f"{study.slug('b')}|00") == StaleStatus.STALE
    assert study.products("b").success
    assert per_variant(study.table("b")) == {2}
    source = study.tables.provenance(PRODUCTS, Partition(study.slug("b"), "00"))
    assert (source["settings"], source["candidates"]) == ("candidates=2 dtype=bfloat16", 2)
    study.configure()
    assert study.status(PRODUCTS, f"{study.slug('b')}|00") == StaleStatus.STALE


def test_shards_of_different_settings_are_not_mixed(study: Study) -> None:
    store = resources(study.settings).store
    slug = study.slug("a")
    source = study.tables.provenance(PRODUCTS, Partition(slug, "00"))
    for shard, settings in (("01", None), ("02", "candidates=9")):
        study.tables.write(PRODUCTS, study.table("a"), Partition(slug, shard), {**source, "settings": settings})
    store.check_one_version(PRODUCTS, [Partition(slug, "00"), Partition(slug, "01")])
    with pytest.raises(InputError, match=r"mixes revisions or settings .*shard=02 from \w+ candidates=9"):
        store.check_one_version(PRODUCTS, [Partition(slug, "00"), Partition(slug, "02")])
