"""Composition root: settings in, Dagster definitions out."""

import os
import warnings
from collections.abc import Mapping

import dagster as dg

from gradsim_assets.automation import automated, automation_sensor
from gradsim_assets.defs import jobs
from gradsim_assets.defs.analysis import assets as analysis
from gradsim_assets.defs.analysis import report
from gradsim_assets.defs.candidates import assets as candidates
from gradsim_assets.defs.checks import build_status, build_tables
from gradsim_assets.defs.datasets import assets as datasets
from gradsim_assets.defs.exchange import jobs as exchange
from gradsim_assets.defs.gradients import assets as gradients
from gradsim_assets.defs.models import assets as models
from gradsim_assets.defs.models import sensors
from gradsim_assets.defs.similarity import assets as similarity
from gradsim_assets.io.parquet import ParquetIOManager, TableStore
from gradsim_assets.partitions import Partitions, model_slug
from gradsim_assets.profiles import Profile, load_profiles, tags_for
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.hub import ModelHub
from gradsim_assets.resources.paraphraser import Paraphraser
from gradsim_assets.resources.sources import SampleSources
from gradsim_assets.settings import HEAVY, Settings, load_settings

#: The compute profile of what needs torch but no GPU.
LIGHT = "cpu"


def build_definitions(settings: Settings, profiles: Mapping[str, Profile] | None = None) -> dg.Definitions:
    """The whole platform for one configuration; `profiles` shape the pods of heavy steps on Kubernetes."""
    with warnings.catch_warnings():
        # Multi-partition mappings and partitioned checks are beta or preview; we pin the version that they work on.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _build(settings, Partitions(settings.data.shards), profiles or {})


def _build(settings: Settings, partitions: Partitions, profiles: Mapping[str, Profile]) -> dg.Definitions:
    heavy, light = tags_for(profiles, HEAVY), tags_for(profiles, LIGHT)
    tables = [
        *datasets.build(settings, partitions, heavy),
        *candidates.build(settings, partitions),
        *gradients.build(settings, partitions, heavy),
        *similarity.build(),
        *analysis.build(partitions, light),
        *report.build(partitions),
    ]
    watching, rerun_jobs, schedules = sensors.build(settings)
    return dg.Definitions(
        assets=[*models.build(), *dg.map_asset_specs(automated, tables)],
        asset_checks=[*build_tables(partitions), *build_status()],
        jobs=[*jobs.build(light), exchange.build(partitions), *rerun_jobs],
        sensors=[automation_sensor(), *watching],
        schedules=schedules,
        resources=resources(settings),
        executor=executor(settings, profiles),
    )


def resources(settings: Settings) -> dict[str, dg.ConfigurableResource | dg.ConfigurableIOManager]:
    """Resources by the names that assets ask for."""
    store = TableStore(root=settings.tables, configuration=settings.fingerprint)
    return {
        "store": store,
        "io_manager": ParquetIOManager(store=store),
        "sources": SampleSources(
            originals=settings.data.originals, paraphrases=settings.data.paraphrases, samples=settings.data.samples
        ),
        "hub": ModelHub(
            home=str(settings.home),
            device=settings.compute.device,
            models=[model.model_dump(exclude_none=True) for model in settings.models],
            defaults={"candidates": settings.data.candidates},
        ),
        "paraphraser": Paraphraser(
            store=str(settings.home / "paraphrases"),
            **settings.paraphraser.model_dump(mode="json"),
        ),
        "compute": Compute(
            home=str(settings.home),
            **settings.compute.model_dump(mode="json", exclude={"executor", "device"}),
        ),
    }


def executor(settings: Settings, profiles: Mapping[str, Profile]) -> dg.ExecutorDefinition:
    """How the steps of a run are executed; steps that take seconds should not each pay a process and an import of torch.

    Raises:
        InputError: a model chose a compute profile that there is not.
    """
    chosen = [model for model in settings.models if model.profile != HEAVY]
    by_model = {model_slug(model.id): tags_for(profiles, model.profile, model.id) for model in chosen}
    if settings.compute.executor == "k8s":
        from gradsim_assets.executor import k8s_executor

        return k8s_executor(HEAVY, by_model)
    return dg.in_process_executor if settings.compute.executor == "in_process" else dg.multiprocess_executor


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads; reads gradsim.toml and the environment now, not when this module is imported."""
    return build_definitions(load_settings(), load_profiles(os.environ.get("GRADSIM_PROFILES")))
