"""Backfills and reruns on a real instance: daemon, code server and web server at work, driven as the UI drives them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.definitions import build_definitions
from gradsim_assets.io.tables import Partition, Tables
from gradsim_assets.partitions import model_slug
from gradsim_assets.resources.hub import folder_revision
from gradsim_assets.settings import load_settings
from gradsim_assets_tests.running_platform import Platform
from gradsim_assets_tests.tiny_models import save_tiny_model

pytestmark = pytest.mark.slow

RETRIEVAL = dg.AssetKey(["retrieval", "paraphrased"])
SHARDS = ("00", "01", "02", "03")
MODELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models, and weights that one of them may change to."""
    root = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(root / name, seed=seed) for seed, name in enumerate((*MODELS, "other"))}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Iterator[Platform]:
    models = "".join(f'[[models]]\nid = "{folders[name]}"\n' for name in MODELS)
    config = f"[data]\nsamples = 8\nshards = 4\n[automation]\nobserve_seconds = 10\n{models}"
    platform = Platform(tmp_path_factory.mktemp("platform"), config)
    platform.start()
    yield platform
    platform.stop()


def everything(platform: Platform) -> list[list[str]]:
    settings = load_settings(platform.environment)
    graph = build_definitions(settings).get_repository_def().asset_graph
    return [list(key.path) for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]


def revisions(platform: Platform, slug: str) -> set[str]:
    tables = Tables(str(platform.home / "tables"))
    shards = [tables.provenance(["dot_products", "paraphrased"], Partition(slug, shard)) for shard in SHARDS]
    return {str(p["revision"]) for p in [*shards, tables.provenance(["retrieval", "paraphrased"], Partition(slug))]}


def settled(platform: Platform, slug: str, revision: str) -> bool:
    if platform.busy() or revisions(platform, slug) != {revision}:
        return False
    comparison = platform.instance.fetch_materializations(dg.AssetKey("model_comparison"), limit=1).records[0].timestamp
    report = platform.instance.fetch_materializations(dg.AssetKey("report"), limit=1).records[0].timestamp
    newest = max(record.timestamp for record in platform.instance.fetch_materializations(RETRIEVAL, limit=1).records)
    return comparison > newest and report > newest


def test_a_revision_reruns_exactly_its_partitions_once(platform: Platform, folders: dict[str, Path]) -> None:
    slugs = {name: model_slug(str(folders[name])) for name in MODELS}
    platform.switch_on("observe_models")
    platform.wait(
        lambda: set(platform.instance.get_dynamic_partitions("model")) == set(slugs.values()), 120, "models to appear"
    )
    started = time.monotonic()
    assert platform.wait_for_backfill(platform.backfill(everything(platform))) == "COMPLETED_SUCCESS"
    print(f"backfill of 3 models x 4 shards: {time.monotonic() - started:.0f} s")
    before = platform.materialised(0)
    assert set(before.values()) == {1}

    platform.switch_on("rerun_on_model_revision")
    time.sleep(45)  # its first evaluation; nothing is stale, so nothing may run
    assert platform.materialised(0) == before

    changed = time.time()
    shutil.copy(folders["other"] / "model.safetensors", folders["b"] / "model.safetensors")
    revision = folder_revision(folders["b"])
    platform.wait(lambda: settled(platform, slugs["b"], revision), 900, "the reruns of the changed model")
    print(f"reruns after a revision: {time.time() - changed:.0f} s")
    time.sleep(70)  # two more ticks: nothing may be asked for a second time
    assert not platform.busy()
    reran = platform.materialised(changed)
    wanted = {key for key in before if key[1] and key[1].startswith(slugs["b"])}
    # Equal parameter counts have equal data versions, so what depends on them alone does not follow.
    assert set(reran) - {("model_comparison", None)} == wanted
    assert set(reran.values()) == {1}
