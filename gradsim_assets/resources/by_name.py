"""All resources of one configuration."""

from typing import NamedTuple

from gradsim_assets.configuration import Settings
from gradsim_assets.core.home import Home
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.paraphraser import Paraphraser
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets.resources.table_store import ParquetIOManager, TableStore


class Resources(NamedTuple):
    """What assets ask for; Dagster takes it as `_asdict()`."""

    store: TableStore
    io_manager: ParquetIOManager
    sources: SampleSources
    hub: ModelHub
    paraphraser: Paraphraser
    compute: Compute


def resources(settings: Settings) -> Resources:
    """The resources of one configuration."""
    store = TableStore(
        root=settings.tables,
        configuration=settings.fingerprint,
        shards=settings.data.shards,
        subsets=settings.evaluation.subsets,
        slices=settings.index.slices if settings.index else 0,
        preconditioned=bool(settings.preconditioners.methods),
    )
    return Resources(
        store=store,
        io_manager=ParquetIOManager(store=store),
        sources=SampleSources(
            originals=settings.data.originals,
            paraphrases=settings.data.paraphrases,
            samples=settings.data.samples,
            folder=str(settings.folder),
            columns={str(ours): theirs for ours, theirs in settings.data.columns.items()},
            where=dict(settings.data.filter),
        ),
        hub=ModelHub(
            home=str(settings.home),
            device=settings.compute.device,
            devices=settings.compute.devices,
            models=[model.model_dump(exclude_none=True) for model in settings.models],
            defaults={"candidates": settings.data.candidates},
            loss_on=settings.data.loss_on,
        ),
        paraphraser=Paraphraser(
            store=str(Home(settings.home).paraphrases),
            **settings.paraphraser.model_dump(mode="json"),
        ),
        compute=Compute(
            home=str(settings.home),
            **settings.compute.model_dump(mode="json", exclude={"executor", "device", "devices"}),
        ),
    )
