"""All resources of one configuration."""

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.home import Home
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.paraphraser import Paraphraser
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets.resources.table_store import ParquetIOManager, TableStore


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
            store=str(Home(settings.home).paraphrases),
            **settings.paraphraser.model_dump(mode="json"),
        ),
        "compute": Compute(
            home=str(settings.home),
            **settings.compute.model_dump(mode="json", exclude={"executor", "device"}),
        ),
    }
