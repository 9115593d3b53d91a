"""`import_scripts`: the predecessor's result files as materialisations of a model's partitions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component, sizes_from_config
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.exchange.scripts_format import Imported, read_scripts
from gradsim_assets.core.partition_keys import model_slug, shard_slice
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, PARAMETERS_PER_COMPONENT, PROJECTED_SIMILARITY
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.demo import DEMO
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.partitions import MODELS, Partitions
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets.resources.table_store import PROVENANCE_PREFIX, TableStore

IMPORT_JOB = "import_scripts"
IMPORT_OP = "import_scripts_files"


class ImportConfig(dg.Config):
    """What to import: the scripts' folder `data/`, the model it is about, and the model's config.json if it is at hand."""

    folder: str
    model: str
    config_file: str = ""
    sample_size: str = "full"


def build(partitions: Partitions) -> dg.JobDefinition:
    """The job for one configuration."""

    @dg.op(name=IMPORT_OP, description="Reads the scripts' JSON files and records a materialisation per partition.")
    @fails_in_one_sentence
    def import_files(
        context: dg.OpExecutionContext, config: ImportConfig, hub: ModelHub, store: TableStore, sources: SampleSources
    ) -> None:
        # The demo's ids say nothing of results that were made elsewhere; configured originals do.
        known = None if sources.originals == DEMO else {sample.id for sample in sources.load_originals()}
        _import(context, config, hub, store, partitions.shards.get_partition_keys(), known)

    @dg.job(
        name=IMPORT_JOB,
        executor_def=dg.in_process_executor,
        description=(
            "Imports result files of the predecessor's scripts as tables of a model (provenance: imported). Afterwards "
            "the analyses of that model run from them alone: no model, tokenizer or GPU is needed."
        ),
    )
    def import_scripts() -> None:
        import_files()

    return import_scripts


def _import(
    context: dg.OpExecutionContext,
    config: ImportConfig,
    hub: ModelHub,
    store: TableStore,
    shards: Sequence[str],
    known: set[str] | None,
) -> None:
    sizes = _sizes(context, config, hub)
    found = read_scripts(Path(config.folder).expanduser(), config.model, sizes, known, config.sample_size)
    for finding in found.findings:
        context.log.warning(str(finding))
    slug = model_slug(config.model)
    context.instance.add_dynamic_partitions(str(MODELS.name), [slug])
    provenance = {"imported": str(config.folder), "model": config.model, "files": ", ".join(found.files)}
    for path, frame, partition in _tables(found, slug, shards):
        _record(context, store, path, frame, partition, provenance)
    parameters = parameters_per_component({name: (sizes or {}).get(name) for name in found.components})
    _record(context, store, [PARAMETERS_PER_COMPONENT.name], parameters, Partition(slug), provenance)


def _sizes(context: dg.OpExecutionContext, config: ImportConfig, hub: ModelHub) -> dict[str, int] | None:
    """Parameters of each component: from config.json, else from the hub, else unknown."""
    if config.config_file:
        path = Path(config.config_file).expanduser()
        try:
            return sizes_from_config(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no readable config.json ({error}); give the model's own.") from error
    try:
        from gradsim_assets.core.sample_gradients.components import trainable_components

        skeleton = hub.skeleton(config.model, hub.resolve(config.model), whole=True)
        return {name: parameter.numel() for name, parameter in trainable_components(skeleton)}
    except (InputError, ServiceError, ImportError) as error:
        context.log.warning(f"Sizes of components stay unknown ({error}); --config gives them from a config.json.")
        return None


def _tables(found: Imported, slug: str, shards: Sequence[str]) -> Iterator[tuple[list[str], pl.DataFrame, Partition]]:
    """Every table of the folder, cut into our shards by variant."""
    if all(part.is_empty for part in found.settings.values()):
        raise InputError("the folder holds no results of this model; give the folder that the scripts call data/.")
    for setting, part in found.settings.items():
        for name, frame in (
            (DOT_PRODUCTS.name, part.dot_products),
            (PROJECTED_SIMILARITY.name, part.projected_similarity),
        ):
            if frame is None:
                continue
            variants = frame["variant_id"].unique(maintain_order=True).to_list()
            for shard in shards:
                kept = shard_slice(variants, shard, len(shards))
                rows = frame.filter(pl.col("variant_id").is_in(list(kept)))
                yield [name, setting], rows, Partition(slug, shard)


def _record(
    context: dg.OpExecutionContext,
    store: TableStore,
    path: Sequence[str],
    frame: pl.DataFrame,
    partition: Partition,
    provenance: Mapping[str, Any],
) -> None:
    """Writes one partition and tells Dagster of it."""
    version = fingerprint(frame)
    entries = {PROVENANCE_PREFIX + name: value for name, value in {**provenance, "fingerprint": version}.items()}
    saved = store.save(path, frame, partition, context.run_id, entries)
    levels = dict(partition.levels)
    context.log_event(
        dg.AssetMaterialization(
            asset_key(*path),
            partition=dg.MultiPartitionKey(levels) if len(levels) > 1 else partition.model,
            metadata={**entries, **saved},
            tags={"dagster/data_version": version},
        )
    )
